"""Times Tesseral and its peers on the same structures and prints a table of ratios. Called by scripts/bench_peers.sh.

Every contender evaluates energy, forces and stress in one precision, neighbour list included, loading excluded; best of --reps. All run one after
another, --rounds times over, and the best round counts: on a shared machine compare numbers of one run only. Everybody's forces are compared
with float64 ones of the model's own Python package, computed in the same run: the column says max|F - F64| / max|F64|.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.io import write

from systems import system

HERE = Path(__file__).resolve().parent
PEERS = {"mace": ["mace-torch", "symmetrix", "mace-cueq", "mace-oeq"], "sevennet": ["sevenn", "sevenn-cueq", "sevenn-oeq", "sevenn-flash"]}
REFERENCE = {"mace": "mace-torch", "sevennet": "sevenn"}


def run_peer(peer: str, model: str, dtype: str, threads: int, reps: int, files: list[Path], device: str = "cpu") -> dict[str, dict]:
    """Records by system; empty, with the end of the error text on stderr, where the peer fails."""
    environment = dict(os.environ, PYTHONWARNINGS="ignore", PEERS_DEVICE=device)
    if peer.startswith("sevenn"):
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(sys.prefix) / "e3nn-new"), environment.get("TESSERAL_E3NN_NEW", "")])
    command = [sys.executable, str(HERE / "contender.py"), peer, model, dtype, str(threads), str(reps), *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{peer} failed on {model}: {done.stderr.strip()[-600:]}", file=sys.stderr)
    records = [json.loads(line[len("RECORD ") :]) for line in done.stdout.splitlines() if line.startswith("RECORD ")]
    return {r["system"]: r for r in records}


def run_tesseral(model: str, dtype: str, threads: int, reps: int, files: list[Path], device: str) -> dict[str, dict]:
    """The same records: forces from `tesseral evaluate --json`, times from `tesseral bench --json`, which moves the atoms as the others' loop does.

    The neighbour list is kept within a skin, as symmetrix keeps its own. One process per structure.
    """
    path, _, modal = model.partition("@")
    head = ["--head", modal] if modal else []
    records = {}
    for file in files:
        forces = tesseral(["evaluate", str(file), "-m", path, "--json", "--dtype", DTYPES[dtype], "--device", device, *head], threads)
        times = tesseral(["bench", "--structure", str(file), "-m", path, "--json", "--dtype", DTYPES[dtype], "--steps", str(max(reps, 1)), "--device", device, *head], threads)
        if forces is None or times is None:
            continue
        atoms = len(forces["forces"])
        records[file.stem] = {
            "system": file.stem, "atoms": atoms, "energy": forces["energy"], "forces": forces["forces"], "seconds": 1e-6 * times["us_per_atom"] * atoms,
            "cpu_seconds": sum(s["cpu_seconds"] for s in times["stages"]), "load_seconds": times["load_seconds"], "peak_mib": None, "bench": times,
        }
    return records


DTYPES = {"float32": "f32", "float64": "f64"}


def tesseral(arguments: list[str], threads: int) -> dict | None:
    cuda = ["--features", "cuda"] if "cuda" in arguments else []
    # A binary that was built elsewhere, or the one of this tree.
    program = [os.environ["TESSERAL"]] if "TESSERAL" in os.environ else ["cargo", "run", "--release", "--quiet", *cuda, "--"]
    command = [*program, *arguments, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"tesseral {arguments[0]} failed: {done.stderr.strip()[-600:]}", file=sys.stderr)
        return None
    return parse_json(done.stdout)


def parse_json(text: str) -> dict:
    """The first structure of a JSON document or of JSON lines."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = json.loads(text.strip().splitlines()[0])
    return value[0] if isinstance(value, list) else value


def best(rounds: list[dict[str, dict]]) -> dict[str, dict]:
    """Per system the record with the shortest time."""
    result = {}
    for records in rounds:
        for name, record in records.items():
            if name not in result or (record["seconds"] or np.inf) < (result[name]["seconds"] or np.inf):
                result[name] = record
    return result


def table(family: str, model: str, results: dict[str, dict[str, dict]], reference: dict[str, dict], systems: list[str]) -> None:
    print(f"\n{family} {Path(model).name}")
    print(f"{'system':<10}{'contender':<12}{'us/atom':>10}{'ratio':>8}{'cpu us/atom':>13}{'dE/atom':>11}{'dF/max|F|':>11}{'MiB':>7}{'load s':>8}")
    for name in systems:
        ours = results.get("tesseral", {}).get(name, {}).get("seconds")
        for contender, records in results.items():
            r = records.get(name)
            if r is None:
                print(f"{name:<10}{contender:<12}{'failed':>10}")
                continue
            cell = lambda value, form: format(value, form) if value is not None else "-"
            per_atom = 1e6 * r["seconds"] / r["atoms"] if r["seconds"] else None
            cpu = 1e6 * r["cpu_seconds"] / r["atoms"] if r["cpu_seconds"] else None
            ratio = r["seconds"] / ours if ours and r["seconds"] else None
            exact = reference.get(name)
            energy = abs(r["energy"] - exact["energy"]) / r["atoms"] if exact else None
            force = None
            if exact:
                f64 = np.array(exact["forces"])
                force = np.abs(np.array(r["forces"]) - f64).max() / np.abs(f64).max()
            print(f"{name:<10}{contender:<12}{cell(per_atom, '.1f'):>10}{cell(ratio, '.2f'):>8}{cell(cpu, '.1f'):>13}{cell(energy, '.1e'):>11}{cell(force, '.1e'):>11}"
                  f"{cell(r['peak_mib'], '.0f'):>7}{cell(r['load_seconds'], '.1f'):>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mace", action="append", default=[], metavar="FILE.model", help="a MACE model; repeatable")
    parser.add_argument("--sevennet", action="append", default=[], metavar="FILE.pth[@MODAL]", help="a SevenNet checkpoint, or a folder name of sevenn/pretrained_potentials; repeatable")
    parser.add_argument("--systems", default="si64,si216,nacl216,water192")
    parser.add_argument("--contenders", default="tesseral,mace-torch,symmetrix,sevenn")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("target/bench-peers"), help="where structures and results.json go")
    args = parser.parse_args()
    if not args.mace and not args.sevennet:
        parser.error("name at least one model with --mace or --sevennet")

    args.out.mkdir(parents=True, exist_ok=True)
    systems = args.systems.split(",")
    files = []
    for name in systems:
        files.append(args.out.resolve() / f"{name}.xyz")
        write(files[-1], system(name), format="extxyz")
    wanted = args.contenders.split(",")
    print(f"load {os.getloadavg()[0]:.1f}, {args.threads} threads, best of {args.reps} in each of {args.rounds} rounds, {args.dtype}, {args.device}, energy + forces + stress")

    everything = []
    for family, model in [("mace", m) for m in args.mace] + [("sevennet", m) for m in args.sevennet]:
        if family == "sevennet" and not Path(model.partition("@")[0]).exists():
            folder, at, modal = model.partition("@")
            found = glob.glob(f"{sys.prefix}/lib/python*/site-packages/sevenn/pretrained_potentials/{folder}/*.pth")
            if not found:
                parser.error(f"{folder} is neither a file nor a checkpoint shipped with sevenn")
            model = found[0] + at + modal
        reference = run_peer(REFERENCE[family], model, "float64", args.threads, 0, files)
        rounds: dict[str, list] = {}
        for _ in range(args.rounds):
            for contender in wanted:
                if contender == "tesseral":
                    rounds.setdefault(contender, []).append(run_tesseral(model, args.dtype, args.threads, args.reps, files, args.device))
                elif contender in PEERS[family]:
                    rounds.setdefault(contender, []).append(run_peer(contender, model, args.dtype, args.threads, args.reps, files, args.device))
        results = {contender: best(records) for contender, records in rounds.items()}
        table(family, model, results, reference, systems)
        everything.append({"family": family, "model": Path(model).name, "dtype": args.dtype, "threads": args.threads, "device": args.device, "load": os.getloadavg()[0],
            "results": {c: {s: {k: v for k, v in r.items() if k != "forces"} for s, r in records.items()} for c, records in results.items()}})
    (args.out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(f"\nload {os.getloadavg()[0]:.1f}; written: {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
