#!/usr/bin/env bash
# Installs the Python package by pip, and tests it with ASE and phonopy from PyPI.
#
#   scripts/test_python.sh [arguments of pytest]
#
# Needs Python 3.10 or newer with venv (PYTHON chooses one), and the package index or a cache of it. The environment is made in the target folder; cargo's part of the
# installation uses what `cargo test --release --workspace` has built: same folder, same profile, same features.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skipped() {
    echo "skipped because $1"
    exit 0
}

python="${PYTHON:-python3}"
command -v "$python" >/dev/null || skipped "there is no $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skipped "$("$python" --version) is older than 3.10"
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
venv="$target/python/$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')"
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv" || skipped "venv does not work (on Debian: apt-get install python3-venv)"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/python/requirements.txt ||
    skipped "pip could not install what is in scripts/python/requirements.txt"

# The command of the README, but with the maturin that is pinned, which needs no isolated environment.
export PATH="$venv/bin:$PATH"
export CARGO_TERM_PROGRESS_WHEN=never
begin=$SECONDS
cargo build --release --locked
pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall ./crates/python
printf 'installed in %d s: %s\n' $((SECONDS - begin)) "$(python -c 'import tesseral; print("tesseral", tesseral.__version__)')"

export TESSERAL_BINARY="$target/release/tesseral"
python -m pytest crates/python/tests -c crates/python/pyproject.toml -p no:cacheprovider -q -m "not long" "$@"
root="$PWD"
for example in examples/python/*.py; do
    printf '\n== %s\n' "$example"
    folder="$(mktemp -d)"
    (cd "$folder" && python "$root/$example")
    rm -rf "$folder"
done
