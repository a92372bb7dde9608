#!/usr/bin/env bash
# Runs kernels in the emulator with checks of addresses and undefined behaviour, and again with threads in the opposite order.
#
#   scripts/sanitize_kernels.sh [ARGUMENTS OF cargo test]     by default: those of kernels and ops
#
# Buffers of the emulated device, and the shared memory of a block, are allocations of their own, so that an access beyond one is seen. Needs g++
# or clang++ with libasan.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Unset in what follows, so that the device of tests is the emulated one.
unset TESSERAL_TEST_DEVICE
cxx=${CXX:-c++}
library() { # The runtime of a sanitizer, which must be there before the program: it is loaded first.
    local name path
    for name in "lib$1.so" "libclang_rt.$1-$(uname -m).so" "libclang_rt.$1.so"; do
        path=$($cxx -print-file-name="$name")
        # The file may be a linker script or a link; the loader wants the library.
        if [ "$path" != "$name" ]; then
            readlink -f "$path"
            return
        fi
    done
    echo "no $1 for $cxx: on Debian, apt-get install g++" >&2
    exit 1
}
asan=$(library asan)
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# For the tests alone: neither cargo nor compilers are to be checked. Rust keeps statics until the end, which are no leaks.
export "CARGO_TARGET_${target}_RUNNER=env LD_PRELOAD=$asan ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1"

echo "==== what the checks are there for is found"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if TESSERAL_EMULATOR_SANITIZE=1 cargo test --release -p tesseral-kernels --lib -- --ignored --exact tests::an_overrun >"$log" 2>&1 ||
    ! grep -q 'AddressSanitizer: heap-buffer-overflow' "$log"; then
    cat "$log"
    echo "an overrun was not found" >&2
    exit 1
fi
run() {
    if [ $# -gt 0 ]; then
        cargo test --release "$@"
        return
    fi
    cargo test --release -p tesseral-kernels --lib --tests
    # The whole workspace, so that nothing is compiled again with fewer features. Not all convolutions: checked ones take minutes to compile.
    cargo test --release --workspace --test cuda_pairs --test cuda_harmonics --test cuda_node
    cargo test --release --workspace --test cuda_convolution -- densities rows_by_species many_neighbours
}
echo "==== with checks"
TESSERAL_EMULATOR_SANITIZE=1 run "$@"
echo "==== in the opposite order"
TESSERAL_EMULATOR_REVERSE=1 run "$@"
