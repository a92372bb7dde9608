#!/usr/bin/env bash
# Runs a command on a machine whose GPU is a fake: the CUDA half of the host for real, kernels in the emulator.
#
#   scripts/fake_gpu.sh cargo test --release -p tesseral-kernels --features cuda
#   scripts/fake_gpu.sh cargo test --release -p tesseral-ops --features tesseral-kernels/cuda cuda
#
# Needs a C++ compiler. What the driver does and what can be made to fail: kernels/emulator/fake_driver.cpp.
set -euo pipefail
if [ $# -eq 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
emulator=$(cd "$(dirname "${BASH_SOURCE[0]}")/../kernels/emulator" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${CXX:-c++} -std=c++17 -O1 -shared -fPIC -fvisibility=hidden "-DEMULATOR=\"$emulator/emulator.h\"" "$emulator/fake_driver.cpp" \
    -o "$folder/libcuda.so.1" -ldl
ln -s libcuda.so.1 "$folder/libcuda.so"
unset CUDA_VISIBLE_DEVICES
LD_LIBRARY_PATH=$folder TESSERAL_NVRTC=$folder/libcuda.so.1 TESSERAL_CACHE=$folder/cache TESSERAL_TEST_DEVICE=cuda "$@"
