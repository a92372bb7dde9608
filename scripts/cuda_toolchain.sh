#!/usr/bin/env bash
# Installs NVIDIA's compilers from PyPI into a virtual environment, and prints the lines that make them known.
#
#   scripts/cuda_toolchain.sh FOLDER          NVRTC (200 MB): compiles every kernel, without a GPU or driver
#   scripts/cuda_toolchain.sh --all FOLDER    nvcc and ptxas too (490 MB): for scripts/kernel_report.sh
#
#   eval "$(scripts/cuda_toolchain.sh /tmp/cuda)"
#
# 13.0 is the newest whose code every driver from 580 on takes.
set -euo pipefail

packages=(nvidia-cuda-nvrtc==13.0.88)
if [ "${1:-}" = --all ]; then
    packages+=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
    shift
fi
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1

[ -x "$folder/bin/pip" ] || python3 -m venv "$folder" >&2
"$folder/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" >&2
home=$(cd "$folder" && echo "$PWD"/lib/python3.*/site-packages/nvidia/cu13)
echo "export CUDA_HOME=$home"
if [ -d "$home/bin" ]; then
    # Single quotes: PATH is that of the shell which reads the lines.
    # shellcheck disable=SC2016
    echo 'export PATH=$CUDA_HOME/bin:$PATH'
fi
