"""Relaxation: how many of the structures of a benchmark converge, in how many steps, and how long it takes, beside ASE.

    python scripts/bench_relax_peers.py --tesseral target/release/tesseral --data mptrj-random-1k.xyz --out relax.json
        [--structures 100] [--compare 20] [--atoms 40] [--rattle 0.1] [--max-force 0.01] [--steps 500] [--cell] [--sevenn] [--threads 2]

The first --structures frames with at most --atoms atoms, whose atoms are not nearer than half the sum of their covalent radii after normal displacements of
--rattle A (numpy's generator, seed = index of the frame). Part 1: all are relaxed by `tesseral relax`. Part 2: on the first --compare of them, steps of ours (L-BFGS,
FIRE 2.0, FIRE of 2006) beside ASE's LBFGS, FIRE and FIRE2 with their default settings, all driven by the same energies (one call of `tesseral evaluate` a step).
Part 3, with --sevenn: ASE's LBFGS with the SevenNet-0 of sevenn on the same structures, wall time beside that of `tesseral relax`. With --cell, cells relax too (ASE:
FrechetCellFilter), to 0.1 GPa. Needs ase; part 3 needs sevenn: the environment that scripts/bench_peers.sh makes will do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.io import iread
from ase.optimize import FIRE, FIRE2, LBFGS

GPA = 1 / 160.2176634


def chosen(path: str, count: int, atoms: int, rattle: float) -> list[Atoms]:
    """The first frames that are small enough, rattled."""
    result = []
    for index, frame in enumerate(iread(path, ":")):
        if len(frame) > atoms:
            continue
        start = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        start.positions += np.random.default_rng(index).normal(0.0, rattle, start.positions.shape)
        distances = start.get_all_distances(mic=True) + 10 * np.eye(len(start))
        radii = covalent_radii[start.numbers]
        if (distances < 0.5 * (radii[:, None] + radii[None, :])).any():
            continue
        start.info = {"source_frame": index}
        result.append(start)
        if len(result) == count:
            break
    return result


class Tesseral(Calculator):
    """`tesseral evaluate --json` of one structure."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, binary: str, threads: int):
        super().__init__()
        self.binary, self.threads, self.calls = binary, threads, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        with tempfile.NamedTemporaryFile("w", suffix=".extxyz") as file:
            bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            # ASE writes eight decimals: positions and cell go as text with all digits.
            cell = " ".join(repr(float(x)) for x in bare.cell.array.ravel())
            rows = [f"{s} " + " ".join(repr(float(x)) for x in r) for s, r in zip(bare.get_chemical_symbols(), bare.positions)]
            pbc = " ".join("T" if p else "F" for p in bare.pbc)
            file.write(f'{len(bare)}\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="{pbc}"\n' + "\n".join(rows) + "\n")
            file.flush()
            line = subprocess.run([self.binary, "evaluate", file.name, "--json", "--threads", str(self.threads)], capture_output=True, text=True, check=True).stdout
        record = json.loads(line)
        self.results = {"energy": record["energy"], "free_energy": record["energy"], "forces": np.array(record["forces"])}
        if record["stress"] is not None:
            s = np.array(record["stress"])
            self.results["stress"] = s[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def by_ase(start: Atoms, calculator, optimiser, arguments) -> dict:
    """Steps until forces (and stress) are as small as ours have to be; None where that takes too many."""
    atoms = start.copy()
    atoms.calc = calculator
    target = FrechetCellFilter(atoms) if arguments.cell else atoms
    begun = time.perf_counter()

    def done() -> bool:
        forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
        return forces <= arguments.max_force and (not arguments.cell or np.abs(atoms.get_stress()).max() <= 0.1 * GPA)

    try:
        dynamics = optimiser(target, logfile=None)
        steps = None
        for step, _ in enumerate(dynamics.irun(fmax=0.0, steps=arguments.steps)):
            if done():
                steps = step
                break
    except Exception as error:  # noqa: BLE001 (a peer that fails is a result)
        return {"steps": None, "error": str(error)[:200], "seconds": time.perf_counter() - begun}
    return {"steps": steps, "energy": float(atoms.get_potential_energy()), "seconds": time.perf_counter() - begun}


def ours(starts: list[Atoms], arguments, method: str, folder: Path) -> dict:
    """All structures by one call of `tesseral relax`: records, and seconds with the start of the program included."""
    source = folder / "starts.extxyz"
    with open(source, "w") as file:
        for start in starts:
            cell = " ".join(repr(float(x)) for x in start.cell.array.ravel())
            rows = [f"{s} " + " ".join(repr(float(x)) for x in r) for s, r in zip(start.get_chemical_symbols(), start.positions)]
            pbc = " ".join("T" if p else "F" for p in start.pbc)
            file.write(f'{len(start)}\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="{pbc}"\n' + "\n".join(rows) + "\n")
    command = [arguments.tesseral, "relax", str(source), "-o", str(folder / "out.extxyz"), "--overwrite", "--json", "--method", method]
    command += ["--max-force", str(arguments.max_force), "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    command += ["--cell", "full"] if arguments.cell else []
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    records = [json.loads(line) for line in done.stdout.splitlines()]
    if len(records) != len(starts):
        sys.exit(f"tesseral relax failed: {done.stderr[-1000:]}")
    return {"seconds": seconds, "records": records}


def summary(steps: list[int | None]) -> dict:
    converged = [s for s in steps if s is not None]
    return {"converged": len(converged), "of": len(steps), "median": statistics.median(converged) if converged else None, "sum": sum(converged), "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tesseral", default="target/release/tesseral")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--structures", type=int, default=100)
    parser.add_argument("--compare", type=int, default=20)
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--rattle", type=float, default=0.1)
    parser.add_argument("--max-force", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cell", action="store_true")
    parser.add_argument("--sevenn", action="store_true")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)

    starts = chosen(arguments.data, arguments.structures, arguments.atoms, arguments.rattle)
    few = starts[: arguments.compare]
    result: dict = {"settings": vars(arguments), "atoms": [len(s) for s in starts], "frames": [s.info["source_frame"] for s in starts]}

    def put() -> None:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everything = ours(starts, arguments, "auto", folder)
        records = everything["records"]
        result["all"] = summary([r["steps"] if r["converged"] else None for r in records]) | {
            "seconds": everything["seconds"],
            "not_converged": [{"frame": f, "formula": r["formula"], "end": r["end"], "max_force": r["max_force"]} for f, r in zip(result["frames"], records) if not r["converged"]],
        }
        put()
        print("all", json.dumps({k: v for k, v in result["all"].items() if k != "steps"}), flush=True)
        result["compare"] = {}
        for method in ("lbfgs", "precon-lbfgs", "fire", "fire-2006") if few else ():
            run = ours(few, arguments, method, folder)
            energies = [r["energy"] for r in run["records"]]
            result["compare"][f"tesseral {method}"] = summary([r["steps"] if r["converged"] else None for r in run["records"]]) | {"seconds": run["seconds"], "energies": energies}
        put()
        for name, optimiser in {"LBFGS": LBFGS, "FIRE": FIRE, "FIRE2": FIRE2}.items() if few else ():
            calculator = Tesseral(arguments.tesseral, arguments.threads)
            runs = [by_ase(start, calculator, optimiser, arguments) for start in few]
            result["compare"][f"ase {name}"] = summary([r["steps"] for r in runs]) | {"energies": [r.get("energy") for r in runs]}
            put()
        for name, run in result["compare"].items():
            print(f"{name:<24} converged {run['converged']}/{run['of']}  median {run['median']}  sum {run['sum']}", flush=True)
        if arguments.sevenn:
            # SevenNet needs a newer e3nn than MACE: scripts/bench_peers.sh keeps it aside.
            sys.path.insert(0, str(Path(sys.prefix) / "e3nn-new"))
            import torch
            from sevenn.calculator import SevenNetCalculator

            torch.set_num_threads(arguments.threads)
            calculator = SevenNetCalculator("7net-0", device="cpu")
            # The first call compiles.
            warm = few[0].copy()
            warm.calc = calculator
            for _ in range(3):
                warm.rattle(1e-3)
                warm.get_forces()
            runs = {name: [by_ase(start, calculator, optimiser, arguments) for start in few] for name, optimiser in {"LBFGS": LBFGS, "FIRE": FIRE}.items()}
            alone = ours(few, arguments, "auto", folder)
            result["wall"] = {"tesseral seconds": alone["seconds"]}
            for name, each in runs.items():
                seconds = sum(r["seconds"] for r in each)
                result["wall"][f"sevenn + ASE {name} seconds"] = seconds
                result["wall"][f"{name} ratio"] = seconds / alone["seconds"]
                result["wall"][f"{name} steps"] = [r["steps"] for r in each]
            print(json.dumps(result["wall"]), flush=True)
    put()


if __name__ == "__main__":
    main()
