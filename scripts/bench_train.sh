#!/usr/bin/env bash
# Times a training step of Tesseral and of mace_run_train: the same model, data, batch and precision, in one run.
#
#   scripts/bench_train.sh [--venv DIR] --data TRAIN.xyz [options of scripts/peers/train.py]
#
# Needs `cargo build --release`, and the virtual environment of scripts/bench_peers.sh (made by it on first use).
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
    echo "there is no $venv: scripts/bench_peers.sh makes it" >&2
    exit 1
fi
exec "$venv/bin/python" scripts/peers/train.py "${arguments[@]}"
