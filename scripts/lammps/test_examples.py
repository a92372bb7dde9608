"""The inputs of examples/lammps, shortened: they run, and what they compute is what it should be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import unittest

import numpy as np

from harness import RANKS, ROOT, LammpsTest, environment
from test_dynamics import thermo

EXAMPLES = ROOT / "examples/lammps"
sys.path.insert(0, str(EXAMPLES))


class Examples(LammpsTest):
    def setUp(self) -> None:
        super().setUp()
        for path in EXAMPLES.iterdir():
            if path.is_file():
                shutil.copy(path, self.folder)

    def example(self, name: str, ranks: int, **variables: object) -> str:
        arguments = [part for key, value in variables.items() for part in ("-var", key, str(value))]
        return self.lammps((EXAMPLES / name).read_text(), ranks, name=name, arguments=tuple(arguments)).output

    def test_silicon(self) -> None:
        energies = []
        for ranks in RANKS:
            rows = thermo(self.example("in.silicon", ranks, steps=50, repeats=2))
            self.assertEqual(list(rows[:, 0]), [0, 50])
            energies.append(rows[0, 2])
        self.close(energies, [energies[0]] * 3, 1e-3, "energies in single precision")

    def test_library(self) -> None:
        # The Python of the environment loads LAMMPS, MPI and the plugin into one process.
        done = subprocess.run([sys.executable, "library.py"], cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        energies = [float(line.split()[2]) for line in done.stdout.splitlines() if "eV/atom" in line]
        self.assertEqual(len(energies), 5)
        self.assertLess(min(energies[1:4]), min(energies[0], energies[4]))

    def test_metadynamics(self) -> None:
        self.example("in.metadynamics", 2, steps=1000)
        hills = np.loadtxt(self.folder / "metadynamics.colvars.meta.hills.traj", ndmin=2)
        # One hill each 100 steps; well-tempered ones shrink.
        self.assertEqual(len(hills), 10)
        self.assertTrue(np.all(hills[:, 3] <= 0.005) and hills[-1, 3] < hills[0, 3])
        # The free energy is that of the hills: −(T + ΔT)/ΔT times their sum (Barducci, Bussi and Parrinello).
        profile = np.loadtxt(self.folder / "metadynamics.pmf")
        self.assertEqual(len(profile), 72)
        bias = np.zeros(len(profile))
        for _, centre, width, weight in hills[:, :4]:
            distance = (profile[:, 0] - centre + 180.0) % 360.0 - 180.0
            bias += weight * np.exp(-(distance**2) / (2 * width**2))
        expected = -(300 + 2700) / 2700 * bias
        expected -= expected.min()
        self.close(profile[:, 1], expected, 0.02 * np.ptp(expected), "free energy")

    def test_umbrella_sampling(self) -> None:
        self.example("in.umbrella", 2, first=10, last=12, equilibration=200, steps=600)
        import umbrella_integration

        windows = [umbrella_integration.window(self.folder / f"umbrella.{k}.colvars.traj") for k in (10, 11, 12)]
        for k, (samples, centre, constant, width) in enumerate(windows):
            self.assertEqual((centre, constant, width), (-180 + 15 * (10 + k), 0.05, 10.0))
            # Every tenth step of the second run.
            self.assertEqual(len(samples), 61)
            self.assertLess(abs(np.mean(samples) - centre), 25.0)
            self.assertGreater(np.std(samples), 0.1)
            # The restraint's energy is k/2 ((x − c)/w)².
            table = np.loadtxt(self.folder / f"umbrella.{10 + k}.colvars.traj")
            distance = (table[:, 1] - centre + 180.0) % 360.0 - 180.0
            self.close(table[:, 2], 0.025 * (distance / 10.0) ** 2, 1e-6, "energy of the restraint")
        done = subprocess.run(
            [sys.executable, "umbrella_integration.py", *(f"umbrella.{k}.colvars.traj" for k in (10, 11, 12))], cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.splitlines()), 361)

    def test_a_restrained_molecule_conserves_energy(self) -> None:
        # Without a thermostat, energy and restraint together are conserved: the forces of COLVARS act on the atoms that this style moves.
        text = (EXAMPLES / "in.umbrella").read_text()
        text = re.sub(r"^fix +2 .*$", "", text, flags=re.M).replace(" tstat 2", "").replace("equilibration index 2000", "equilibration index 0")
        text = re.sub(r"^thermo_style.*$", "fix_modify 3 energy yes\nthermo_style custom step temp pe etotal f_3\nthermo_modify format float %.12g", text, flags=re.M)
        text = re.sub(r"^thermo +1000", "thermo 10", text, flags=re.M)
        # The second fix of the example is a new one.
        text = text.replace("unfix           3\nfix             3 all colvars umbrella.${window}.colvars output umbrella.${window}\n", "")
        for ranks in (1, 2):
            output = self.lammps(text, ranks, arguments=("-var", "first", "10", "-var", "last", "10", "-var", "steps", "400", "-var", "dtype", "f64")).output
            rows = thermo(output)[1:]
            self.assertGreater(np.ptp(rows[:, 4]), 0.01, "the restraint did nothing: the test shows nothing")
            self.assertLess(np.max(np.abs(rows[:, 3] - rows[0, 3])), 0.1 * np.ptp(rows[:, 4]))

    def test_umbrella_integration(self) -> None:
        # Normal samples of windows in a harmonic well of known curvature: the well comes back.
        import umbrella_integration

        kt = umbrella_integration.BOLTZMANN * 300.0
        well, constant, width = 2e-4, 0.05, 10.0
        quantiles = np.linspace(-3, 3, 20001)
        weights = np.exp(-(quantiles**2) / 2)
        z = np.interp((np.arange(20000) + 0.5) / 20000, np.cumsum(weights) / np.sum(weights), quantiles)
        z = (z - np.mean(z)) / np.std(z)
        windows = []
        for centre in np.arange(-30.0, 31.0, 5.0):
            stiffness = well + constant / width**2
            windows.append((constant / width**2 * centre / stiffness + z * np.sqrt(kt / stiffness), centre, constant, width))
        x, profile = umbrella_integration.free_energy(windows, 300.0)
        expected = well * x**2 / 2
        self.close(profile, expected - expected.min(), 1e-3 * np.ptp(expected), "the well")


if __name__ == "__main__":
    unittest.main()
