#!/usr/bin/env bash
# Times Tesseral and its Python/C++ peers on the same structures in one run, and checks everybody's forces against float64.
#
#   scripts/bench_peers.sh [--venv DIR] [options of scripts/peers/bench.py]
#
# The virtual environment (about 7 GB with torch) is made on first use, in DIR, $TESSERAL_PEERS_VENV or .venv-peers.
# Example, small:   scripts/bench_peers.sh --mace small.model --systems si64 --reps 3 --threads 1
# Only what is here: --contenders tesseral,mace-torch
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${TESSERAL_PEERS_VENV:-.venv-peers}"
arguments=()
while (($#)); do
    case "$1" in
        --venv) venv="$2"; shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done

if [[ ! -x "$venv/bin/python" ]]; then
    python3 -m venv "$venv"
fi
if [[ ! -e "$venv/peers-ready" ]]; then
    pip=("$venv/bin/python" -m pip install --quiet)
    "${pip[@]}" -r scripts/peers/requirements.txt
    "${pip[@]}" --no-deps sevenn==0.13.0 symmetrix-xl==0.1.1
    # MACE needs e3nn 0.4.4, SevenNet a newer one: kept aside, put on the path for SevenNet alone.
    "${pip[@]}" --no-deps --target "$venv/e3nn-new" e3nn==0.5.6
    touch "$venv/peers-ready"
fi

exec "$venv/bin/python" scripts/peers/bench.py "${arguments[@]}"
