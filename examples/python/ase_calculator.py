"""An ASE calculator: relax a crystal with its cell, strain it, and run some dynamics.

    python examples/python/ase_calculator.py
"""

import numpy as np
from ase import units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import LBFGS

from tesseral import Calculator

atoms = bulk("MgO", "rocksalt", 4.3, cubic=True)
atoms.calc = Calculator("sevennet-0")

LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01)
print(f"a = {atoms.cell.lengths()[0]:.3f} Å, E = {atoms.get_potential_energy() / len(atoms):.4f} eV/atom")

energies = []
for strain in np.linspace(-0.02, 0.02, 5):
    strained = atoms.copy()
    strained.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    strained.calc = atoms.calc
    energies.append(strained.get_potential_energy())
curvature = np.polyfit(np.linspace(-0.02, 0.02, 5), energies, 2)[0] * 2
print(f"bulk modulus about {curvature / 9 / atoms.get_volume() / units.GPa:.0f} GPa")

thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
Bussi(atoms, timestep=1 * units.fs, temperature_K=300, taut=50 * units.fs, rng=np.random.default_rng(1)).run(50)
print(f"after 50 fs: {atoms.get_temperature():.0f} K")
