"""Many structures at once, several models as a committee, and structures without ASE.

    python examples/python/batches.py [MODEL …]
"""

import sys

import numpy as np
from ase.build import bulk

from tesseral import InputError, Potential

potential = Potential(sys.argv[1:] or None)
print(potential)

rng = np.random.default_rng(0)
structures = [bulk("NaCl", "rocksalt", 5.5 + 0.02 * k, cubic=True) for k in range(20)]
for atoms in structures:
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)

results = potential.evaluate(structures)
best = min(range(len(results)), key=lambda k: results[k].energy)
print(f"lowest: a = {structures[best].cell[0, 0]:.2f} Å, {results[best].energy:.4f} eV, largest force {np.abs(results[best].forces).max():.3f} eV/Å")
if potential.is_committee:
    print("the models disagree by", max(result.forces_spread.max() for result in results), "eV/Å at most")

# Arrays are enough, and one bad structure need not end it.
water = {"numbers": [8, 1, 1], "positions": [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]}
broken = {"numbers": [8, 8], "positions": [[0, 0, 0], [0, 0, 0]]}
for result in potential.evaluate([water, broken], errors="return"):
    print(result.message if isinstance(result, InputError) else f"{result.energy:.4f} eV")
