"""Times the Python package: import, one structure at a time by its size, a batch of small structures beside a loop over the calculator, and one step of the calculator.

    target/python/3.11/bin/python scripts/bench_python.py [--structures 1000] [--device cpu] [--threads N]

For figures that are quoted, run it on a quiet machine and keep what it prints.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
from ase.build import bulk

from tesseral import Calculator, Potential, __version__

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--structures", type=int, default=1000)
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--threads", type=int, default=None)
parser.add_argument("--repeat", type=int, default=3)
arguments = parser.parse_args()
settings = {"device": arguments.device, "dtype": arguments.dtype, "threads": arguments.threads}


def fastest(work):
    times = []
    for _ in range(arguments.repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def imported():
    code = "import time; t = time.perf_counter(); import tesseral; print(time.perf_counter() - t)"
    return min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(10))


figures = {
    "version": __version__,
    "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    "load before": os.getloadavg()[0],
    "import, ms": 1e3 * imported(),
    **settings,
}
rng = np.random.default_rng(0)


def rattled(atoms):
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    return atoms


for name, make in {
    "2 atoms of NaCl": lambda k: rattled(bulk("NaCl", "rocksalt", 5.5 + 0.0004 * k)),
    "8 atoms of Si": lambda k: rattled(bulk("Si", cubic=True)),
}.items():
    many = [make(k) for k in range(arguments.structures)]
    potential = Potential(**settings)
    calculator = Calculator(**settings)
    potential.evaluate(many[:20])
    calculator.get_forces(many[0])

    def loop(many=many, calculator=calculator):
        for atoms in many:
            atoms.calc = calculator
            atoms.get_potential_energy()
            atoms.get_forces()

    batch, one_by_one = fastest(lambda: potential.evaluate(many)), fastest(loop)
    figures[name] = {"structures": len(many), "batch, s": batch, "loop, s": one_by_one, "ratio": one_by_one / batch}

for cells in (1, 2, 3, 4):
    crystal = rattled(bulk("Si", cubic=True) * (cells, cells, cells))
    # As many times as makes 512 atoms.
    times = max(1, 512 // len(crystal))
    alone = fastest(lambda crystal=crystal, times=times: [potential.evaluate([crystal]) for _ in range(times)])
    figures[f"{len(crystal)} atoms of Si alone, µs an atom"] = 1e6 * alone / (times * len(crystal))

# What Python adds to a step: the calculator against a batch of one.
crystal = bulk("Si", cubic=True) * (4, 4, 4)
calculator, potential = Calculator(**settings, skin=0.5), Potential(**settings)
calculator.get_forces(crystal)


def step():
    crystal.positions += 1e-3 * rng.standard_normal(crystal.positions.shape)
    calculator.get_forces(crystal)


figures["step of 512 atoms, ms"] = 1e3 * fastest(step)
figures["load after"] = os.getloadavg()[0]
print(json.dumps(figures, indent=2))
