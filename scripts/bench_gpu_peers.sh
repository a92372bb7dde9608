#!/usr/bin/env bash
# Times Tesseral and its peers on a CUDA device, on the same structures in one run: mace-torch alone, with cuEquivariance and with OpenEquivariance; sevenn
# alone, with cuEquivariance, with OpenEquivariance and with FlashTP. Everybody's forces are checked against float64.
#
#   scripts/bench_gpu_peers.sh --mace medium.model --sevennet SevenNet_0__11Jul2024 [options of scripts/peers/bench.py]
#
# It uses the Python of $TESSERAL_PEERS_VENV (default .venv-gpu-peers), which is made on first use where packages can be fetched, and leaves out, with a
# word, contenders whose packages are not there. $TESSERAL is a binary that was built elsewhere; without it, cargo builds one.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${TESSERAL_PEERS_VENV:-.venv-gpu-peers}"
if [[ ! -x "$venv/bin/python" ]]; then
    python3 -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet)
    "${pip[@]}" -r scripts/peers/requirements.txt
    "${pip[@]}" --no-deps sevenn==0.13.0
    "${pip[@]}" --no-deps --target "$venv/e3nn-new" e3nn==0.5.6
    for optional in "cuequivariance-torch==0.7.0 cuequivariance-ops-torch-cu12==0.7.0" openequivariance flashTP-e3nn; do
        # shellcheck disable=SC2086
        "${pip[@]}" $optional || echo "not installed: $optional" >&2
    done
fi

"$venv/bin/python" - <<'PY'
import torch

assert torch.cuda.is_available(), "no CUDA device that torch can use"
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
PY

has() { "$venv/bin/python" -c "import $1" 2>/dev/null; }
contenders=tesseral,mace-torch,sevenn
for pair in cuequivariance_torch:mace-cueq,sevenn-cueq openequivariance:mace-oeq,sevenn-oeq flashTP_e3nn:sevenn-flash; do
    if has "${pair%%:*}"; then
        contenders+=",${pair#*:}"
    else
        echo "left out because ${pair%%:*} is not installed: ${pair#*:}"
    fi
done

exec "$venv/bin/python" scripts/peers/bench.py --device cuda --contenders "$contenders" --systems si216,si1000,si10648,water10125 --reps 10 --rounds 2 "$@"
