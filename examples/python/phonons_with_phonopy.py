"""phonopy, with forces of all displacements in one batch.

    python examples/python/phonons_with_phonopy.py
"""

import numpy as np
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from tesseral import Potential, relax

potential = Potential(dtype="float64")
cell = relax(bulk("Si"), potential, cell="isotropic", max_force=1e-4, max_stress=0.001)

unitcell = PhonopyAtoms(symbols=cell.get_chemical_symbols(), cell=cell.cell.array, scaled_positions=cell.get_scaled_positions())
phonon = Phonopy(unitcell, supercell_matrix=np.diag([3, 3, 3]), primitive_matrix=np.eye(3))
phonon.generate_displacements(distance=0.01)
supercells = [{"numbers": s.numbers, "positions": s.positions, "cell": s.cell, "pbc": True} for s in phonon.supercells_with_displacements]
phonon.forces = np.array([result.forces for result in potential.evaluate(supercells)])
phonon.produce_force_constants()
phonon.run_qpoints([[0, 0, 0], [0.5, 0.5, 0]])
for name, frequencies in zip(["Γ", "X"], phonon.qpoints.frequencies, strict=True):
    print(name, " ".join(f"{f:6.2f}" for f in frequencies), "THz")
