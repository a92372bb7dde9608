#!/usr/bin/env bash
# What can be tested of CUDA without a GPU: lints and tests with the feature `cuda`, on a driver that needs none; all kernels compiled by NVRTC; kernels in the
# emulator under sanitizers.
#
#   scripts/test_cuda.sh
#
# Needs a C++ compiler. NVRTC is installed from PyPI into a folder beside the build outputs unless CUDA_HOME or TESSERAL_NVRTC is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo clippy --release -p tesseral-kernels --features cuda --all-targets -- -D warnings
if [ -z "${CUDA_HOME:-}${TESSERAL_NVRTC:-}" ]; then
    if lines=$(scripts/cuda_toolchain.sh "${CARGO_TARGET_DIR:-target}/cuda-toolchain"); then
        eval "$lines"
    else
        echo "kernels are not compiled by NVRTC, which could not be installed"
    fi
fi
if [ -n "${CUDA_HOME:-}${TESSERAL_NVRTC:-}" ]; then
    scripts/kernel_report.sh
    export TESSERAL_REQUIRE_NVRTC=1
fi
cargo test --release -p tesseral-kernels --features cuda
scripts/fake_gpu.sh cargo test --release -p tesseral-kernels --features cuda --test '*'
scripts/sanitize_kernels.sh
