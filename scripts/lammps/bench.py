"""Times `lmp` with pair_style tesseral beside `tesseral md`, and two ranks beside two threads: SevenNet-0, f32, NVE. See scripts/bench_lammps.sh."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import BIN, ROOT, TESSERAL, Structure, diamond, environment


def water(spacing: float = 3.104, seed: int = 7) -> Structure:
    """72 molecules on a grid, turned by chance, at the density of water."""
    random = np.random.default_rng(seed)
    n = (4, 3, 6)
    places = np.array([(i, j, k) for i in range(n[0]) for j in range(n[1]) for k in range(n[2])]) + 0.5
    shape = np.array([(0, 0, 0), (0.9572, 0, 0), (-0.2399872, 0.9266272, 0)])
    symbols, positions = [], []
    for place in places:
        q, _ = np.linalg.qr(random.normal(size=(3, 3)))
        positions.extend(place * spacing + shape @ q.T)
        symbols += ["O", "H", "H"]
    return Structure(np.diag(np.array(n) * spacing), symbols, np.array(positions))


SYSTEMS = {
    "water, 216 atoms": (water(), "O H", 0.25, 200),
    "Si, 1,000 atoms": (diamond((5, 5, 5), rattle=0.05), "Si", 1.0, 60),
}


def lammps(folder: Path, elements: str, step: float, steps: int, ranks: int, threads: int, skin: float) -> float:
    """Seconds a step within LAMMPS' own loop, with its lists `skin` (Å) beyond the cutoff."""
    (folder / "in.bench").write_text(
        f"""units metal
atom_style atomic
read_data structure.data
pair_style tesseral threads {threads}
pair_coeff * * sevennet-0 {elements}
neighbor {skin} bin
velocity all create 300 4928 loop geom
timestep {step / 1000}
fix 1 all nve
thermo 1000000
run 20
run {steps}
"""
    )
    # As many ranks as cores: none has to give way.
    kept = {key: value for key, value in environment().items() if not key.startswith("MPIR_")}
    output = subprocess.run(
        [BIN / "mpirun", "-n", str(ranks), BIN / "lmp", "-in", "in.bench", "-log", "none"], cwd=folder, env=kept, check=True, capture_output=True, text=True
    ).stdout
    return float(re.findall(r"Loop time of (\S+) on", output)[-1]) / steps


def molecular_dynamics(folder: Path, step: float, steps: int, threads: int) -> float:
    """Seconds a step of `tesseral md`: the difference of two runs, so that what happens once does not count."""

    def run(n: int) -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        command = [TESSERAL, "md", "structure.extxyz", "-o", "run", "-e", "nve", "-T", "300", "--time-step", str(step), "-n", str(n)]
        command += ["--threads", str(threads)]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
        return time.perf_counter() - start

    return (run(20 + steps) - run(20)) / steps


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    skin = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    cores = os.cpu_count() or 1
    print(f"{cores} cores, load {os.getloadavg()[0]:.2f}; skin of {skin} Å in LAMMPS; medians of {rounds} rounds, ms a step")
    results = {}
    for name, (structure, elements, step, steps) in SYSTEMS.items():
        with tempfile.TemporaryDirectory(prefix="tesseral-bench-") as scratch:
            folder = Path(scratch)
            (folder / "structure.data").write_text(structure.data(elements.split()))
            (folder / "structure.extxyz").write_text(structure.extxyz())
            times: dict[str, list[float]] = {"md": [], "lammps": [], "ranks": []}
            # One after another in each round, so that all see the same machine.
            for _ in range(rounds):
                times["md"].append(molecular_dynamics(folder, step, steps, 2))
                times["lammps"].append(lammps(folder, elements, step, steps, 1, 2, skin))
                times["ranks"].append(lammps(folder, elements, step, steps, 2, 1, skin))
        md, threads, ranks = (1e3 * statistics.median(times[key]) for key in ("md", "lammps", "ranks"))
        print(f"{name}: tesseral md, 2 threads {md:.2f}; lmp, 2 threads {threads:.2f}; lmp, 2 ranks of 1 thread {ranks:.2f}")
        print(f"  time in LAMMPS / time of tesseral md: {threads / md:.3f} (at most 1.10)")
        print(f"  efficiency of 2 ranks beside 2 threads: {threads / ranks:.3f} (at least 0.85)")
        results[name] = {"md_ms": md, "lammps_2_threads_ms": threads, "lammps_2_ranks_ms": ranks}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
