"""Train a small potential on energies and forces of another calculator, and use it.

    python examples/python/train.py
"""

import logging

import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from tesseral import Calculator, train

logging.basicConfig(level=logging.INFO, format="%(message)s")

rng = np.random.default_rng(0)
frames = []
for k in range(40):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * (1 + 0.01 * (k % 5 - 2)), scale_atoms=True)
    atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
    atoms.calc = EMT()
    atoms.get_stress()
    frames.append(atoms)
ase.io.write("copper.extxyz", frames)

# The keys of the TOML file of `tesseral train`; `tesseral.template()` has them all.
training = train(
    {
        "data": {"train": ["copper.extxyz"], "valid_fraction": 0.2},
        "model": {"family": "mace", "r_max": 4.0, "num_channels": 8, "max_L": 1, "max_ell": 2, "correlation": 2, "radial_MLP": [16]},
        "optimizer": {"learning_rate": 0.02},
        "training": {"max_epochs": 5, "batch": {"frames": 4}},
        "output": {"directory": "run", "name": "copper"},
    }
)
print(f"{training.ending}: {training.model}, forces within {1e3 * training.errors['valid']['forces']['rmse']:.0f} meV/Å")
calculator = Calculator(training.model)
print(f"{calculator.get_potential_energy(frames[0]):.3f} eV, EMT says {frames[0].get_potential_energy():.3f}")
