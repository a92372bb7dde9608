"""phonopy with forces of the calculator."""

import subprocess

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from conftest import write_extxyz

from tesseral import Calculator, Potential

phonopy = pytest.importorskip("phonopy")
from phonopy.structure.atoms import PhonopyAtoms  # noqa: E402


def test_frequencies(binary, tmp_path):
    cell = bulk("NaCl", "rocksalt", 5.69)
    phonon = phonopy.Phonopy(
        PhonopyAtoms(symbols=cell.get_chemical_symbols(), cell=cell.cell.array, scaled_positions=cell.get_scaled_positions()),
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix=np.eye(3),
    )
    phonon.generate_displacements(distance=0.01)
    supercells = [
        {"numbers": s.numbers, "positions": s.positions, "cell": s.cell, "pbc": True} for s in phonon.supercells_with_displacements
    ]
    # All displacements at once, and one after another by the calculator.
    forces = np.array([result.forces for result in Potential(dtype="float64").evaluate(supercells)])
    calculator = Calculator(dtype="float64")
    assert (forces == [calculator.get_forces(Atoms(**s)) for s in supercells]).all()
    phonon.forces = forces
    phonon.produce_force_constants()

    def frequencies(q):
        phonon.run_qpoints([q])
        return phonon.qpoints.frequencies[0]

    gamma = frequencies([0, 0, 0])
    assert np.abs(gamma[:3]).max() < 0.15
    # The transversal optical branch of rock salt, about 5 THz (without the splitting of charges).
    assert 3.5 < gamma[3] < 6.0
    assert (frequencies([0.5, 0.5, 0.0]) > 1.5).all()
    # `tesseral phonons` has its own displacements, force constants and dynamical matrix: its folder is read by phonopy.
    write_extxyz(tmp_path / "nacl.extxyz", [cell])
    command = [binary, "phonons", "nacl.extxyz", "-o", "out", "--dtype", "f64", "--supercell", "2", "2", "2", "--mesh", "2", "2", "2", "--displacement", "0.01"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    other = phonopy.load(tmp_path / "out" / "phonopy_params.yaml", produce_fc=True)
    other.run_qpoints([[0.5, 0.5, 0.0]])
    assert np.abs(np.sort(other.qpoints.frequencies[0]) - np.sort(frequencies([0.5, 0.5, 0.0]))).max() < 1e-3
