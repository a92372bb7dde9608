#!/usr/bin/env bash
# Builds with the feature `mpi` and trains by two processes under mpirun, against one process.
#
#   scripts/test_mpi.sh
#
# Needs an MPI library with its compiler wrapper (mpicc, mpirun) and libclang. On Debian: libopenmpi-dev openmpi-bin libclang-dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for tool in mpicc mpirun; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped because there is no $tool: on Debian, apt-get install libopenmpi-dev openmpi-bin libclang-dev"
        exit 0
    fi
done
mpirun --version | head -n 1
cargo clippy --release -p tesseral-train -p tesseral --features mpi --all-targets -- -D warnings
cargo test --release -p tesseral --features mpi --test cli mpi:: -- --nocapture
