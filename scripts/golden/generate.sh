#!/usr/bin/env bash
# Makes every model and reference of tests/golden anew.
#
#   scripts/golden/generate.sh VENV OUT
#
# VENV is made on first use (about 7 GB with torch), OUT receives the models and references; tests/golden is then filled from OUT.
# Energies come out the same on the same versions and processor family; another one moves the last digits.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$1"
out="$2"
mkdir -p "$out"
out="$(cd "$out" && pwd)"

if [[ ! -e "$venv/golden-ready" ]]; then
    python3 -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet)
    "${pip[@]}" -r "$here/requirements.txt"
    # These ask for other versions of e3nn than MACE does, so each has a folder of its own to be put on the path.
    "${pip[@]}" --no-deps --target "$venv/cueq" cuequivariance==0.13.0 cuequivariance-torch==0.13.0
    "${pip[@]}" --no-deps sevenn==0.13.0
    "${pip[@]}" --no-deps --target "$venv/e3nn-new" e3nn==0.5.6
    "${pip[@]}" --no-deps --target "$venv/nequip-06" nequip==0.6.2 torch-runstats==0.2.0
    "${pip[@]}" --no-deps --target "$venv/nequip-new" nequip==0.19.1 e3nn==0.6.0 hydra-core==1.3.8 omegaconf==2.3.1 \
        antlr4-python3-runtime==4.9.3 lightning==2.6.1 pytorch-lightning==2.6.1 lightning-utilities==0.15.3 lmdb==3.0.0
    touch "$venv/golden-ready"
fi
venv="$(cd "$venv" && pwd)"

export OMP_NUM_THREADS=1
run() { # PYTHONPATH script arguments...
    local path="$1"
    shift
    (cd "$out" && PYTHONPATH="$path" "$venv/bin/python" "$here/$1" "${@:2}")
}
run "$venv/cueq" make_mace_models.py "$out/mace"
run "$venv/cueq" make_references.py "$out/mace"
run "$venv/e3nn-new" make_sevennet_models.py "$out/sevennet"
run "$venv/e3nn-new" make_sevennet_references.py tiny "$out/sevennet"
run "$venv/nequip-new" make_nequip.py "$out/nequip"
run "$venv/nequip-06" make_nequip_06.py "$out/nequip"
run "$venv/nequip-06:$venv/e3nn-new" make_nequip_06.py "$out/nequip"
run "" install_fixtures.py "$out" "$here/../../tests/golden"
