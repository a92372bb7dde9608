"""The benchmark structures: `si64`, `nacl216`, `water192` and so on, any size that is 8 n^3 (crystals) or 3 n^3 (water)."""

from __future__ import annotations

import re

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation


def system(name: str) -> Atoms:
    """A periodic structure with the number of atoms in its name, rattled by 0.05 A (seeded)."""
    kind, atoms = re.fullmatch(r"(si|nacl|water)(\d+)", name).groups()
    if kind == "water":
        n = round((int(atoms) / 3) ** (1 / 3))
        spacing = 29.9 ** (1 / 3)  # A: one molecule per 29.9 A^3, the density of the liquid
        result = Atoms(cell=[spacing * n] * 3, pbc=True)
        rng = np.random.default_rng(0)
        for index in np.ndindex(n, n, n):
            water = molecule("H2O")
            turn = Rotation.random(random_state=int(rng.integers(10**9))).as_matrix()
            water.positions = (water.positions - water.positions.mean(axis=0)) @ turn.T + (np.array(index) + 0.5) * spacing
            result += water
    else:
        n = round((int(atoms) / 8) ** (1 / 3))
        cell = bulk("Si", "diamond", a=5.431, cubic=True) if kind == "si" else bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        result = cell * (n, n, n)
    if len(result) != int(atoms):
        raise SystemExit(f"{name}: the nearest possible number of atoms is {len(result)}")
    result.calc = None
    result.positions += np.random.default_rng(1).normal(0.0, 0.05, result.positions.shape)
    return result
