"""Molecular dynamics of the same structures by `tesseral md` and by ASE with sevenn, in one run: ns/day. Called by scripts/bench_md_peers.sh.

Both integrate with velocity Verlet at constant energy, 1 fs a step, from 300 K, and write nothing but their last state. What counts is the wall time of the steps themselves:
ASE's clock starts after the first steps; ours is the one that `tesseral md` reports in its summary, which leaves loading the model out as well. `evaluation` is the time of
the same steps' force evaluations alone, from the same summary: the rest is the driver's.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def worker(model: str, file: str, steps: int, threads: int) -> None:
    """Runs in a process of its own, with the packages of sevenn on the path."""
    import warnings

    warnings.filterwarnings("ignore")
    import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
    import numpy as np
    import torch
    from ase import units
    from ase.io import read
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from ase.md.verlet import VelocityVerlet
    from sevenn.calculator import SevenNetCalculator

    torch.set_num_threads(threads)
    atoms = read(file)
    atoms.calc = SevenNetCalculator(model, device="cpu")
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(1))
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    dynamics.run(2)
    start = time.perf_counter()
    dynamics.run(steps)
    print("RECORD " + json.dumps({"seconds": time.perf_counter() - start, "steps": steps}))


def ase_with_sevenn(model: str, file: Path, steps: int, threads: int) -> float:
    environment = dict(os.environ, PYTHONWARNINGS="ignore", OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    environment["PYTHONPATH"] = str(Path(sys.prefix) / "e3nn-new")
    command = [sys.executable, __file__, "--worker", model, str(file), str(steps), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RECORD "):
            record = json.loads(line[len("RECORD ") :])
            return record["seconds"] / record["steps"]
    raise SystemExit(f"ASE with sevenn failed: {done.stderr.strip()[-800:]}")


def tesseral(arguments: list[str], threads: int) -> dict:
    program = [os.environ["TESSERAL"]] if "TESSERAL" in os.environ else ["cargo", "run", "--release", "--quiet", "--"]
    done = subprocess.run([*program, *arguments, "--json", "--threads", str(threads)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tesseral {arguments[0]} failed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    from ase.io import write

    from systems import system

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="water192,si216,si1000", help="as in systems.py")
    parser.add_argument("--steps", type=int, default=200, help="of tesseral; ASE with sevenn runs a twentieth of them, at least 5")
    parser.add_argument("--rounds", type=int, default=2, help="the faster one counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("target/bench-md"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = glob.glob(f"{sys.prefix}/lib/python*/site-packages/sevenn/pretrained_potentials/SevenNet_0__11Jul2024/*.pth")[0]

    print(f"load {os.getloadavg()[0]:.1f}, {args.threads} threads, best of {args.rounds} rounds, float32, SevenNet-0, NVE, 1 fs")
    print(f"{'system':<10}{'ASE+sevenn':>12}{'tesseral':>12}{'ratio':>8}{'evaluation':>12}{'driver':>9}{'ns/day':>9}")
    print(f"{'':<10}{'ms/step':>12}{'ms/step':>12}{'':>8}{'ms':>12}{'%':>9}")
    records = []
    for name in args.systems.split(","):
        file = args.out.resolve() / f"{name}.xyz"
        write(file, system(name), format="extxyz")
        theirs, ours, alone = [], [], []
        for _ in range(args.rounds):
            theirs.append(ase_with_sevenn(model, file, max(args.steps // 20, 5), args.threads))
            with tempfile.TemporaryDirectory() as folder:
                run = tesseral(["md", str(file), "-o", folder, "--ensemble", "nve", "-T", "300", "--time-step", "1", "--steps", str(args.steps)], args.threads)
            ours.append(run["total"] / args.steps)
            alone.append(run["forces"] / args.steps)
        best = min(range(len(ours)), key=ours.__getitem__)
        seconds, evaluation = ours[best], alone[best]
        record = {"system": name, "ase_sevenn": min(theirs), "tesseral": seconds, "evaluation": evaluation, "ns_per_day": 86400 / seconds * 1e-6}
        records.append(record)
        print(f"{name:<10}{1e3 * min(theirs):>12.1f}{1e3 * seconds:>12.2f}{min(theirs) / seconds:>8.1f}{1e3 * evaluation:>12.2f}"
              f"{100 * (seconds / evaluation - 1):>9.2f}{record['ns_per_day']:>9.3f}")
    (args.out / "results.json").write_text(json.dumps(records, indent=1) + "\n")
    print(f"load {os.getloadavg()[0]:.1f}; written: {args.out / 'results.json'}")


if __name__ == "__main__":
    if "--worker" in sys.argv:
        place = sys.argv.index("--worker")
        worker(sys.argv[place + 1], sys.argv[place + 2], int(sys.argv[place + 3]), int(sys.argv[place + 4]))
    else:
        main()
