"""What the tests share: the binary of the command line, small golden models, structures."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def binary() -> str:
    """The command line, which results are compared with."""
    found = os.environ.get("TESSERAL_BINARY") or shutil.which("tesseral") or ROOT / "target" / "release" / "tesseral"
    if not Path(found).is_file():
        pytest.skip(f"skipped because there is no {found}: cargo build --release")
    return str(found)


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """Small models in the formats of the packages that they come from: `golden("mace/plain_class_two_heads_zbl.model")` is a path."""
    folder = tmp_path_factory.mktemp("models")

    def unpacked(name: str) -> str:
        path = folder / name.replace("/", "-")
        if not path.exists():
            path.write_bytes(gzip.decompress((GOLDEN / f"{name}.gz").read_bytes()))
        return str(path)

    return unpacked


def write_extxyz(path: Path, structures) -> None:
    """Structures with all digits, which ASE does not write."""
    with open(path, "w", encoding="utf-8") as file:
        for atoms in structures:
            file.write(f"{len(atoms)}\n")
            if atoms.cell.any():
                file.write('Lattice="' + " ".join(repr(float(x)) for x in atoms.cell.array.ravel()) + '" ')
            file.write('Properties=species:S:1:pos:R:3 pbc="' + " ".join("FT"[int(p)] for p in atoms.pbc) + '"')
            for key, value in atoms.info.items():
                file.write(f" {key}={value}")
            file.write("\n")
            for symbol, position in zip(atoms.symbols, atoms.positions, strict=True):
                file.write(symbol + " " + " ".join(repr(float(x)) for x in position) + "\n")


def evaluate(binary: str, path: Path, structures, *flags: str) -> list[dict]:
    """What `tesseral evaluate` says of structures; numbers with all their digits."""
    write_extxyz(path, structures)
    command = [binary, "evaluate", "--json", "--per-atom", str(path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def evaluated(binary, tmp_path):
    """As `evaluate`."""
    return lambda structures, *flags: evaluate(binary, tmp_path / "structures.extxyz", structures, *flags)


@pytest.fixture(scope="session", params=["float32", "float64"])
def expected(request, binary, tmp_path_factory):
    """What the command line says of all `structures` in one precision: `(dtype, by name)`."""
    path = tmp_path_factory.mktemp("expected") / "structures.extxyz"
    named = structures()
    results = evaluate(binary, path, named.values(), "--dtype", request.param.replace("float", "f"))
    return request.param, dict(zip(named, results, strict=True))


def rattled(atoms, seed: int, amount: float = 0.1):
    atoms = atoms.copy()
    atoms.positions += amount * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def structures() -> dict:
    """Crystal, skewed and left-handed cells, slab, wire, molecule, atom."""
    skewed = rattled(bulk("SiC", "zincblende", 4.36), 1)
    skewed.set_cell(skewed.cell.array @ (np.eye(3) + [[0.02, 0.05, -0.03], [0.0, -0.01, 0.08], [0.04, 0.0, 0.01]]), scale_atoms=True)
    left = rattled(bulk("NaCl", "rocksalt", 5.6, cubic=True), 2)
    left.set_cell(left.cell.array[[1, 0, 2]], scale_atoms=False)
    slab = rattled(fcc111("Cu", (2, 2, 3), vacuum=8.0), 3)
    slab.pbc = (True, True, False)
    wire = rattled(fcc111("Al", (2, 2, 2), vacuum=9.0), 4)
    wire.pbc = (True, False, False)
    flat = rattled(fcc111("Cu", (2, 2, 2)), 5)
    flat.pbc = (True, True, False)
    flat.cell[2] = 0.0
    alone = molecule("H2O")[:1]
    found = {
        "silicon": rattled(bulk("Si", cubic=True), 0),
        "skewed": skewed,
        "left-handed": left,
        "slab": slab,
        "wire": wire,
        "slab without a third vector": flat,
        "molecule": rattled(molecule("CH3CH2OH"), 6, 0.05),
        "atom": alone,
    }
    # What does not matter, and is not in the file that the command line reads.
    for atoms in found.values():
        atoms.info.clear()
    return found


NAMES = list(structures())


@pytest.fixture(params=NAMES)
def atoms(request):
    return structures()[request.param]


@pytest.fixture
def silicon():
    return structures()["silicon"]


@pytest.fixture
def ethanol():
    return structures()["molecule"]
