#!/usr/bin/env bash
# Runs `tesseral ipi` and its library against the real i-PI and ASE, and the examples of examples/ipi.
#
#   scripts/test_ipi.sh
#
# Needs Python 3.11 or newer with `venv`. i-PI and ASE are installed from PyPI, in the versions of scripts/ipi/requirements.txt, into a virtual environment beside the build
# outputs. TESSERAL_IPI may name the folder of programs (`bin`) of an environment that has them already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${TESSERAL_IPI:-}" ]; then
    venv="${CARGO_TARGET_DIR:-target}/ipi-venv"
    installed="$venv/installed"
    if ! cmp -s scripts/ipi/requirements.txt "$installed"; then
        rm -rf "$venv"
        if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || ! python3 -m venv "$venv"; then
            echo "skipped because there is no Python 3.11 or newer with venv: on Debian, apt-get install python3-venv"
            exit 0
        fi
        if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r scripts/ipi/requirements.txt; then
            echo "skipped because i-PI and ASE could not be installed from PyPI"
            exit 0
        fi
        cp scripts/ipi/requirements.txt "$installed"
    fi
    TESSERAL_IPI="$(cd "$venv/bin" && pwd)"
    export TESSERAL_IPI
fi
"$TESSERAL_IPI/python" -c 'from importlib.metadata import version; print("i-PI", version("ipi"), "ASE", version("ase"))'
# One at a time: each has a server and a client that want the cores.
cargo test --release --workspace --test ipi -- --nocapture --test-threads 1
cargo test --release --workspace --test cli ipi:: -- --nocapture --test-threads 1
