#!/usr/bin/env bash
# What to run before committing: everything that CI runs.
#
#   scripts/check.sh          all of it
#   scripts/check.sh --fix    formats first
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
    "") ;;
    --fix) cargo fmt --all ;;
    *)
        echo "usage: scripts/check.sh [--fix]" >&2
        exit 2
        ;;
esac
exec .ci/run
