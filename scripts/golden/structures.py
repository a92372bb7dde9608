"""Small structures that exercise neighbour search and every model, and a full-precision extxyz writer.

`structures(elements)` is deterministic: same elements, same structures. All stay below 20 atoms, so that
finite differences of them are cheap and the files stay small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii


def _crystal(symbols: list[str], cell: np.ndarray, scaled: list[list[float]], rng, name: str, rattle: float = 0.12) -> Atoms:
    atoms = Atoms(symbols, scaled_positions=scaled, cell=cell, pbc=True)
    atoms.positions += rng.normal(0.0, rattle, atoms.positions.shape)
    atoms.info["name"] = name
    return atoms


def structures(elements: list[str], seed: int = 0) -> list[Atoms]:
    """Structures made of `elements` (at least two): bulk, primitive, left-handed, skewed, slab, wire, molecule, dimer, atom."""
    rng = np.random.default_rng(seed)
    pick = lambda n: [elements[i % len(elements)] for i in rng.permutation(max(n, len(elements)))[:n]]
    radius = np.mean([covalent_radii[atomic_numbers[e]] for e in elements])
    a = max(2.0 * radius * 1.25, 1.9)  # typical nearest-neighbour distance
    rocksalt = [[x / 2, y / 2, z / 2] for x in range(2) for y in range(2) for z in range(2)]
    out = []

    strained = 2 * a * (np.eye(3) + rng.normal(0.0, 0.03, (3, 3)))
    bulk = _crystal(pick(8), strained, rocksalt, rng, "bulk_8_rattled_strained")
    out.append(bulk)

    unwrapped = bulk.copy()
    shifts = rng.integers(-3, 4, (len(bulk), 3))
    shifts[0] = (7, -5, 4)
    unwrapped.positions += shifts @ bulk.cell.array
    unwrapped.info["name"] = "bulk_8_atoms_far_outside_cell"
    out.append(unwrapped)

    fcc = 1.2 * a / np.sqrt(2.0) * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    fcc[2, 2] += 0.11  # no symmetry, so that no force component vanishes
    out.append(_crystal(pick(1), fcc, [[0.1, 0.2, 0.3]], rng, "primitive_1_atom_smaller_than_cutoff", 0.0))

    left = 1.4 * fcc[[1, 0, 2]]
    assert np.linalg.det(left) < 0 or np.linalg.det(fcc) < 0
    left = left if np.linalg.det(left) < 0 else 1.4 * fcc
    out.append(_crystal(pick(2), left, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], rng, "two_atoms_left_handed_cell"))

    skewed = a * 1.25 * np.array([[1.0, 0.0, 0.0], [1.9, 1.1, 0.0], [-0.8, 2.1, 1.05]])
    out.append(_crystal(pick(3), skewed, [[0.0, 0.0, 0.0], [0.45, 0.1, 0.52], [0.1, 0.55, 0.5]], rng, "three_atoms_skewed_cell", 0.05))

    slab = Atoms(pick(6), pbc=(True, True, False), cell=[[1.5 * a, 0.0, 0.0], [0.5 * a, 1.45 * a, 0.0], [0.0, 0.0, 18.0]])
    slab.positions = [[x * 0.75 * a + z * 0.3, y * 0.7 * a, 8.0 + 0.8 * a * z] for x, y, z in ((0, 0, 0), (1, 1, 0), (0, 0, 1), (1, 1, 1), (0, 1, 2), (1, 0, 2))]
    slab.positions += rng.normal(0.0, 0.1, slab.positions.shape)
    slab.info["name"] = "slab_TTF"
    out.append(slab)

    wire = Atoms(pick(3), pbc=(True, False, False), cell=[[1.9 * a, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    wire.positions = np.array([[0.0, 0.0, 0.0], [0.9 * a, 0.4, 0.1], [1.3 * a, -0.6 * a, 0.5]])
    wire.info["name"] = "wire_TFF_zero_cell_vectors"
    out.append(wire)

    molecule = Atoms(pick(5))
    directions = rng.normal(size=(4, 3))
    directions = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / np.sqrt(3.0) + 0.15 * directions
    molecule.positions = np.vstack([np.zeros(3), 0.85 * a * directions]) + np.array([-4.0, 2.0, 30.0])
    molecule.info["name"] = "molecule_5_no_cell"
    out.append(molecule)

    dimer = Atoms(elements[:2], positions=[[0.0, 0.0, 0.0], [0.35 * a, 0.41 * a, -0.3 * a]])
    dimer.info["name"] = "close_dimer"
    out.append(dimer)

    atom = Atoms([elements[-1]], positions=[[1.0, 2.0, 3.0]])
    atom.info["name"] = "isolated_atom"
    out.append(atom)
    return out


def number(x: float) -> str:
    """Shortest decimal text that reads back to the same float64."""
    return repr(float(x))


def write_frames(path: Path, frames: list[tuple[Atoms, dict, dict]]) -> None:
    """Writes (atoms, info, arrays) as extxyz with shortest round-trip float64 text.

    `info` values: str, int, float or an array (written row-major in quotes); `arrays` holds `forces` [n, 3] in eV/A and
    `node_energy` [n] in eV. Atoms without a cell get a zero Lattice and pbc "F F F".
    """
    lines = []
    for atoms, info, arrays in frames:
        lines.append(str(len(atoms)))
        header = [f'Lattice="{" ".join(number(x) for x in atoms.cell.array.ravel())}"']
        header.append("Properties=species:S:1:pos:R:3:forces:R:3:node_energy:R:1")
        header.append(f'pbc="{" ".join("T" if p else "F" for p in atoms.pbc)}"')
        for key, value in info.items():
            if isinstance(value, (str, int)):
                header.append(f"{key}={value}")
            elif np.ndim(value) == 0:
                header.append(f"{key}={number(value)}")
            else:
                header.append(f'{key}="{" ".join(number(x) for x in np.ravel(value))}"')
        lines.append(" ".join(header))
        for symbol, position, force, energy in zip(atoms.symbols, atoms.positions, arrays["forces"], arrays["node_energy"]):
            lines.append(" ".join([symbol, *(number(x) for x in (*position, *force, energy))]))
    Path(path).write_text("\n".join(lines) + "\n")


def force_error(evaluate, atoms, result, h=1e-4) -> float:
    """Deviation of the first force component from a five-point difference of the energy."""
    slope = 0.0
    for k, w in {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}.items():
        moved = atoms.copy()
        moved.positions[0, 0] += k * h
        slope += w * evaluate(moved)["energy"] / h
    return abs(slope + result["forces"][0, 0])


def report(path: Path, frames: list, note: str) -> None:
    """Writes (atoms, info, arrays) frames and prints what was written."""
    write_frames(path, frames)
    forces = np.concatenate([r["forces"].ravel() for _, _, r in frames])
    print(f"{path}: {len(frames)} frames, {path.stat().st_size} B, max|F| {np.abs(forces).max():.3g} eV/A{note}", flush=True)
