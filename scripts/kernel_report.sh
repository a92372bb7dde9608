#!/usr/bin/env bash
# Registers, shared and local memory of every kernel, for sm_80 and sm_90, in the shapes of published models. Fails if a kernel spills registers.
#
#   eval "$(scripts/cuda_toolchain.sh /tmp/cuda)" && scripts/kernel_report.sh
#
# Needs NVRTC 12 or later, and no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The whole workspace, so that nothing is compiled again with fewer features.
TESSERAL_REQUIRE_NVRTC=1 exec cargo test --release --workspace --test kernels_compile -- --nocapture "$@"
