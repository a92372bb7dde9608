#!/usr/bin/env bash
# Speed of pair_style tesseral beside `tesseral md` on the same system, and of two ranks beside two threads. For a machine with nothing else to do.
#
#   scripts/bench_lammps.sh [ROUNDS [SKIN]]
#
# SKIN is that of LAMMPS' lists, Å: 1 unless given; LAMMPS itself would take 2.
#
# Needs what scripts/test_lammps.sh needs, and its virtual environment (target/lammps-venv), which it makes if it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${CARGO_TARGET_DIR:-target}/lammps-venv"
if [[ ! -x "$venv/bin/lmp" ]] || ! "$venv/bin/python" -c 'import tesseral_lammps' 2>/dev/null; then
    scripts/test_lammps.sh test_values.Values.test_slab
fi
exec "$venv/bin/python" scripts/lammps/bench.py "${1:-3}" "${2:-1}"
