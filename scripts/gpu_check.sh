#!/usr/bin/env bash
# What can be shown only on a GPU: builds a bundle on a machine without one, and runs it on a machine with one.
#
#   scripts/gpu_check.sh bundle FOLDER [MODEL …]   builds FOLDER: programs, tests, golden data, NVRTC, artifacts of the models; needs no GPU
#   FOLDER/run.sh OUT                              runs everything there on the GPU of that machine, which needs its driver and nothing else
#   FOLDER/run.sh OUT parity|sanitizer|determinism|energy|bench   only that
#
# OUT gets a log of each check, the benches as JSON, and summary.md with device, driver, date and commit: its rows go to kernels/LEDGER.md, its benches to
# benches/results. What cannot run there is said to be skipped, and why; nothing passes without having run.
set -euo pipefail

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

bundle() { # folder models
    local folder="$1" model name
    shift
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    mkdir -p "$folder/bin" "$folder/tests" "$folder/models" "$folder/golden"
    folder="$(cd "$folder" && pwd)"

    # Of the whole workspace: single packages would be compiled once more, with fewer features.
    cargo build --release --workspace --features tesseral/cuda --bin tesseral
    strip -o "$folder/bin/tesseral" "${CARGO_TARGET_DIR:-target}/release/tesseral"
    local built
    built="$(mktemp)"
    cargo test --release --workspace --features tesseral/cuda --no-run --message-format=json \
        --test device --test device_lists --test compiled --test edges --test 'cuda_*' >"$built"
    sed -nE 's/.*"kind":\["test"\][^}]*"name":"([a-z_]+)".*"executable":"([^"]+)".*/\1 \2/p' "$built" |
        while read -r name executable; do strip -o "$folder/tests/$name" "$executable"; done
    rm -f "$built"
    mv "$folder/tests/compiled" "$folder/bin/"
    [[ -x "$folder/tests/device" ]] || { echo "the test program \`device\` was not found" >&2; exit 1; }

    cp -r tests/golden/mace tests/golden/sevennet tests/golden/nequip "$folder/golden/"
    cp -r examples "$folder/structures"
    for model in "$@"; do
        name="$(basename "${model%.*}")"
        rm -f "$folder/models/$name.safetensors"
        "$folder/bin/tesseral" import "$model" -o "$folder/models/$name.safetensors"
    done
    # NVRTC, unless the machine is known to have it. 110 MB, a third of that when packed.
    if [[ -z "${TESSERAL_BUNDLE_WITHOUT_NVRTC:-}" ]]; then
        local toolchain
        toolchain="$(mktemp -d)"
        eval "$(scripts/cuda_toolchain.sh "$toolchain")"
        mkdir -p "$folder/nvrtc"
        cp "$CUDA_HOME"/lib/libnvrtc.so.* "$CUDA_HOME"/lib/libnvrtc-builtins.so.* "$folder/nvrtc/"
        rm -rf "$toolchain"
    fi
    git rev-parse --short HEAD >"$folder/commit"
    git diff --quiet HEAD 2>/dev/null || echo "$(cat "$folder/commit")+changes" >"$folder/commit"
    cp "${BASH_SOURCE[0]}" "$folder/run.sh"
    # The programs have most of their code in common: a dictionary that holds all of them takes a quarter off.
    tar -C "$(dirname "$folder")" -cf - "$(basename "$folder")" | xz --x86 --lzma2=preset=9,dict=192MiB >"$folder.tar.xz"
    du -h "$folder.tar.xz"
}

# ------------------------------------------------------------------------------------------------------------ on the GPU

# Runs a check with its log; one line of the summary for each.
check() { # name command...
    local name="$1" start=$SECONDS state
    shift
    if "$@" >"$out/$name.log" 2>&1; then
        state="passed"
        # A test that found no device would have failed; what it skipped for other reasons is said.
        if grep -q '^skipped because' "$out/$name.log"; then
            state="passed in part: $(grep -m 1 '^skipped because' "$out/$name.log")"
        fi
    else
        state="**failed** (rc $?): $(grep -m 1 -E 'panicked|error|FAILED' "$out/$name.log" | cut -c 1-160 || true)"
        failures=$((failures + 1))
    fi
    printf '| %s | %s | %d s |\n' "$name" "$state" $((SECONDS - start)) | tee -a "$out/summary.md"
}

skip() { printf '| %s | skipped because %s | |\n' "$1" "$2" | tee -a "$out/summary.md"; }

parity() {
    local test
    for test in tests/*; do
        check "parity-$(basename "$test")" "$test" --test-threads 4 --nocapture
    done
}

sanitizer() {
    local tool
    if ! command -v compute-sanitizer >/dev/null; then
        skip sanitizer "compute-sanitizer is not on this machine"
        return
    fi
    for tool in memcheck racecheck; do
        check "$tool-convolution" compute-sanitizer --tool "$tool" --error-exitcode 9 tests/cuda_convolution --test-threads 1
        check "$tool-node" compute-sanitizer --tool "$tool" --error-exitcode 9 tests/cuda_node --test-threads 1
        check "$tool-edges" compute-sanitizer --tool "$tool" --error-exitcode 9 tests/edges --test-threads 1
        check "$tool-engine" compute-sanitizer --tool "$tool" --error-exitcode 9 tests/device steps_repeat --test-threads 1
    done
}

# The same bits in twenty runs of the program.
twenty_runs() { # structure
    local first="" run
    for run in $(seq 20); do
        # All but the time that it took.
        run="$(bin/tesseral evaluate "$1" --device cuda --json | sed -E 's/,"seconds":[^,}]*//' | sha256sum)"
        first="${first:-$run}"
        [[ "$run" == "$first" ]] || { echo "error: run differs: $run, $first"; return 1; }
    done
    echo "twenty times $first"
}

determinism() {
    local structure
    for structure in structures/*; do
        check "determinism-$(basename "$structure")" twenty_runs "$structure"
    done
}

energy() { check energy bin/compiled energy_is_conserved --include-ignored --nocapture; }

benches() {
    local model atoms name
    for model in built-in models/*.safetensors; do
        [[ "$model" == built-in || -e "$model" ]] || continue
        name="$(basename "${model%.safetensors}")"
        for atoms in 64 216 1000 10648 97336; do
            # shellcheck disable=SC2046
            check "bench-$name-$atoms" bin/tesseral bench --device cuda --json --atoms "$atoms" --steps 30 $([[ "$model" == built-in ]] || echo -m "$model")
        done
    done
    # A cold start: no kernel in the cache; a warm one: all of them.
    export TESSERAL_CACHE="$out/cache"
    check start-cold bin/tesseral evaluate structures/silicon.vasp --device cuda --json
    check start-warm bin/tesseral evaluate structures/silicon.vasp --device cuda --json
}

run() { # out what
    out="$1"
    mkdir -p "$out"
    out="$(cd "$out" && pwd)"
    cd "$(dirname "${BASH_SOURCE[0]}")"
    failures=0
    export TESSERAL_TEST_DEVICE=cuda TESSERAL_REQUIRE_GPU=1 TESSERAL_GOLDEN="$PWD/golden"
    [[ ! -d nvrtc ]] || export TESSERAL_NVRTC="${TESSERAL_NVRTC:-$(ls "$PWD"/nvrtc/libnvrtc.so.* | head -n 1)}"
    {
        printf '# Checks on a GPU\n\n'
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "nvidia-smi is not on this machine"
        printf '%s, commit %s\n\n| check | result | time |\n|---|---|---|\n' "$(date -u +%F)" "$(cat commit)"
    } | tee "$out/summary.md"
    if [[ -n "${2:-}" ]]; then
        case "$2" in
            parity | sanitizer | determinism | energy) "$2" ;;
            bench) benches ;;
            *) usage ;;
        esac
    else
        parity
        determinism
        energy
        benches
        sanitizer
    fi
    ((failures == 0)) || { echo "$failures check(s) failed: logs in $out"; exit 1; }
}

case "${1:-}" in
    bundle) [[ -n "${2:-}" ]] || usage; bundle "${@:2}" ;;
    "" | -*) usage ;;
    *) [[ -e "$(dirname "${BASH_SOURCE[0]}")/commit" ]] || usage; run "$@" ;;
esac
