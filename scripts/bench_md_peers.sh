#!/usr/bin/env bash
# Molecular dynamics by `tesseral md` and by ASE with sevenn, on the same structures in one run: ns/day and the share of the driver.
#
#   scripts/bench_md_peers.sh [options of scripts/peers/md.py]
#
# Uses the virtual environment of scripts/bench_peers.sh ($TESSERAL_PEERS_VENV or .venv-peers), which has to be there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${TESSERAL_PEERS_VENV:-.venv-peers}"
[[ -e "$venv/peers-ready" ]] || { echo "no peers in $venv: scripts/bench_peers.sh makes the environment" >&2; exit 1; }
exec "$venv/bin/python" scripts/peers/md.py "$@"
