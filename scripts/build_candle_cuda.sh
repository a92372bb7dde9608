#!/usr/bin/env bash
# Builds the command line with candle's CUDA backend (feature `candle-cuda`: training on a GPU) on a machine without the CUDA toolkit.
#
#   scripts/build_candle_cuda.sh FOLDER              cargo build --release -p tesseral --features candle-cuda
#   scripts/build_candle_cuda.sh --check FOLDER      only type-checks: cargo check, of tesseral-ops and what is above it
#   scripts/build_candle_cuda.sh FOLDER COMMAND      cargo COMMAND with the same environment
#
# Where nvcc is on the path, with a toolkit around it, this script is not needed.
#
# FOLDER takes what is made: NVIDIA's compilers (from PyPI, 490 MB), if nvcc is not on the path; a copy of candle-kernels
# without its kernels for quantised models, which take half an hour to compile; an archive that stands for libcuda, libcublas and the others while
# linking, and opens them when they are first called (x86-64). The binary is for the GPUs of CUDA_COMPUTE_CAP (by default 80) and later.
set -euo pipefail

check=
if [ "${1:-}" = --check ]; then
    check=yes
    shift
fi
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

if ! command -v nvcc >/dev/null; then
    eval "$(scripts/cuda_toolchain.sh --all "$folder/toolchain")"
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}

# Folders of the two packages, as cargo has unpacked them.
sources=$(cargo metadata --format-version 1 --locked --features tesseral-ops/candle-cuda | python3 -c '
import json, os, sys
packages = {p["name"]: os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"]}
print(packages["candle-kernels"], packages["cudarc"])')
read -r kernels cudarc <<<"$sources"
python3 scripts/candle_cuda/slim_kernels.py "$kernels" "$folder/candle-kernels"
python3 scripts/candle_cuda/link_shim.py "$cudarc" "$folder/shim"

export LIBRARY_PATH=$folder/shim${LIBRARY_PATH:+:$LIBRARY_PATH}
# `paths` takes the copy in the place of the package without touching Cargo.lock.
cargo=(cargo --config "paths=[\"$folder/candle-kernels\"]")
if [ -n "$check" ]; then
    "${cargo[@]}" check --locked --release -p tesseral --features candle-cuda "$@"
elif [ $# -gt 0 ]; then
    "${cargo[@]}" "$@"
else
    "${cargo[@]}" build --locked --release -p tesseral --features candle-cuda
fi
