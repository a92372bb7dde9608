"""Dynamics, minimisation, constant pressure and restarts with pair_style tesseral."""

from __future__ import annotations

import os
import unittest

import numpy as np

from harness import BAR, RANKS, LammpsTest, Structure, crystal, diamond
from test_values import MACE


def dynamics(structure: Structure, model: str, elements: str, steps: int, **changes: str) -> str:
    part = {
        "style": "tesseral dtype f64 radial exact",
        "before": "",
        "after": "",
        "temperature": "3000",
        "timestep": "0.001",
        "fix": "all nve",
        "neighbor": "0.5 bin",
        "run": f"run {steps}",
        "thermo": str(max(1, steps // 10)),
    } | changes
    boundary = " ".join("p" if p else "f" for p in structure.pbc)
    return f"""units metal
atom_style atomic
atom_modify map yes
boundary {boundary}
{part["before"]}
read_data structure.data
pair_style {part["style"]}
pair_coeff * * {model} {elements}
{part["after"]}
neighbor {part["neighbor"]}
neigh_modify every 1 delay 0 check yes
velocity all create {part["temperature"]} 4928 loop geom
timestep {part["timestep"]}
fix 1 {part["fix"]}
dump d all custom {max(1, steps)} atoms.dump id proc xu yu zu fx fy fz
dump_modify d sort id format float %.17g
thermo {part["thermo"]}
thermo_style custom step temp pe ke etotal press vol
thermo_modify format float %.17g
{part["run"]}
print "RESULT $(pe:%.17g) $(etotal:%.17g) $(press:%.17g) $(vol:%.17g)"
"""


def thermo(output: str) -> np.ndarray:
    """The rows of all tables of thermodynamic output."""
    rows, inside = [], False
    for line in output.splitlines():
        if line.split()[:1] == ["Step"]:
            inside = True
        elif line.startswith("Loop time"):
            inside = False
        elif inside:
            try:
                rows.append([float(x) for x in line.split()])
            except ValueError:
                pass
    return np.array(rows)


LONG = unittest.skipUnless(
    os.environ.get("TESSERAL_LONG"), "skipped because TESSERAL_LONG is not set: 10,000 steps (in double precision with TESSERAL_TEST_TIMEOUT=1800)"
)


class Dynamics(LammpsTest):
    def test_atoms_crossing_ranks(self) -> None:
        # Hot enough that atoms change ranks and lists are made anew; the same trajectory on all numbers of ranks.
        for model, structure, elements, steps, temperature in (
            ("sevennet-0", diamond((2, 2, 1)), "Si", 12, 12000),
            # Its middle layer is where two ranks meet.
            (self.golden(MACE), crystal((3, 4, 3), rattle=0.1), "Si O Fe", 25, 4000),
        ):
            self.write("structure.data", structure.data(elements.split()))
            first = None
            for ranks, before in ((1, ""), (2, "processors 2 1 1"), (4, "processors 2 2 1"), (4, "comm_style tiled")):
                if before == "comm_style tiled" and model == "sevennet-0":
                    continue    # that cell is smaller than the ghost cutoff, which tiled domains cannot be
                after = "fix b all balance 5 1.0 rcb" if before == "comm_style tiled" else ""
                run = self.lammps(dynamics(structure, model, elements, steps, temperature=str(temperature), before=before, after=after), ranks)
                frames = run.frames("atoms.dump")
                found = (run.result(), frames[-1], thermo(run.output))
                self.assertNotIn("Neighbor list builds = 0", run.output)
                if first is None:
                    first = found
                    continue
                self.assertTrue(np.any(frames[0][:, 1] != frames[-1][:, 1]), "no atom has crossed ranks: the test shows nothing")
                self.close(found[0][:2], first[0][:2], 1e-9 * abs(first[0][0]), "energies")
                self.close(found[1][:, 2:5], first[1][:, 2:5], 1e-9, "positions")
                self.close(found[1][:, 5:8], first[1][:, 5:8], 1e-8, "forces")

    def test_energy_is_conserved(self) -> None:
        structure = diamond((2, 1, 1))
        self.write("structure.data", structure.data(["Si"]))
        for dtype in ("dtype f64 radial exact", "dtype f32"):
            run = self.lammps(dynamics(structure, "sevennet-0", "Si", 100, style=f"tesseral {dtype}", temperature="600", thermo="5"), 2)
            total = thermo(run.output)[:, 4] / len(structure)
            self.assertLess(np.max(np.abs(total - total[0])), 1e-3)
            self.assertLess(abs(np.mean(total[-5:]) - np.mean(total[:5])), 2e-4)
            self.assertGreater(np.ptp(thermo(run.output)[:, 2]), 0.1)

    @LONG
    def test_drift_over_ten_thousand_steps(self) -> None:
        for ranks in (1, 2):
            self.drift("f32", ranks)

    @LONG
    def test_drift_over_ten_thousand_steps_in_double_precision(self) -> None:
        for ranks in (2, 1):
            self.drift("f64", ranks)

    def drift(self, dtype: str, ranks: int) -> None:
        structure = diamond((2, 2, 2))
        self.write("structure.data", structure.data(["Si"]))
        run = self.lammps(dynamics(structure, "sevennet-0", "Si", 10000, style=f"tesseral dtype {dtype}", temperature="600", thermo="10"), ranks)
        rows = thermo(run.output)
        slope = np.polyfit(rows[:, 0] * 1e-3, rows[:, 4] / len(structure), 1)[0]
        spread = np.std(rows[:, 4]) / len(structure)
        print(f"{dtype}, {ranks} ranks, 64 Si, 10 ps at 1 fs from 600 K: drift {slope * 1e6:.3f} µeV/atom/ps, spread {spread * 1e6:.1f} µeV/atom", flush=True)
        self.assertLess(abs(slope), 1e-5)

    def test_restart(self) -> None:
        # A run that is stopped, written and read again goes on as if nothing had happened, settings and model included.
        structure = diamond((2, 1, 1))
        self.write("structure.data", structure.data(["Si"]))
        whole = self.lammps(dynamics(structure, "sevennet-0", "Si", 10, style="tesseral dtype f64 radial exact threads 1"), 2).result()
        self.lammps(dynamics(structure, "sevennet-0", "Si", 5, style="tesseral dtype f64 radial exact threads 1") + "write_restart half.restart\n", 2)
        again = """units metal
read_restart half.restart
{}
neighbor 0.5 bin
neigh_modify every 1 delay 0 check yes
timestep 0.001
fix 1 all nve
run 5
print "RESULT $(pe:%.17g) $(etotal:%.17g) $(press:%.17g) $(vol:%.17g)"
"""
        for ranks in (1, 2):
            for lines in ("", "pair_style tesseral dtype f64 radial exact\npair_coeff * * sevennet-0 Si"):
                run = self.lammps(again.format(lines), ranks)
                self.close(run.result()[:2], whole[:2], 1e-9 * abs(whole[0]), "energies")
                self.assertIn("f64", next(line for line in run.output.splitlines() if line.startswith("Tesseral ")))

    def test_consecutive_runs(self) -> None:
        # Another model, other settings, a deleted and a new atom, and `clear`, in one input.
        structure = diamond((2, 1, 1))
        reference = self.evaluate(structure, "sevennet-0")
        fewer = Structure(structure.cell, structure.symbols[1:], structure.positions[1:])
        self.write("structure.data", structure.data(["Si"]))
        text = dynamics(structure, "sevennet-0", "Si", 0, temperature="1")
        text += """group gone id 1
delete_atoms group gone compress no
run 0
print "FEWER $(pe:%.17g)"
pair_style tesseral dtype f32
run 0
print "SINGLE $(pe:%.17g)"
clear
units metal
atom_modify map yes
read_data structure.data
pair_style tesseral dtype f64 radial exact
pair_coeff * * sevennet-0 Si
run 0
print "AGAIN $(pe:%.17g)"
"""
        for ranks in (1, 2):
            output = self.lammps(text, ranks).output
            values = {line.split()[0]: float(line.split()[1]) for line in output.splitlines() if line.startswith(("RESULT", "FEWER", "SINGLE", "AGAIN"))}
            without = self.evaluate(fewer, "sevennet-0").energy
            self.close(values["RESULT"], reference.energy, 1e-9 * abs(reference.energy), "energy")
            self.close(values["AGAIN"], reference.energy, 1e-9 * abs(reference.energy), "energy after clear")
            self.close(values["FEWER"], without, 1e-9 * abs(without), "energy without an atom")
            self.close(values["SINGLE"], without, 1e-6 * abs(without), "energy in single precision")
            self.assertNotEqual(values["SINGLE"], values["FEWER"])

    def test_types_that_change(self) -> None:
        # `fix atom/swap` changes types between lists.
        structure = crystal((3, 3, 2), elements="Si O", rattle=0.1)
        model = self.golden(MACE)
        self.write("structure.data", structure.data(["Si", "O"]))
        text = dynamics(structure, model, "Si O", 6, temperature="300", after="fix swap all atom/swap 1 4 8271 300000.0 types 1 2 ke no", neighbor="3.0 bin")
        text += 'write_dump all custom final.dump id type x y z modify sort id format float %.17g\nrun 0\nprint "RESULT $(pe:%.17g) $(etotal:%.17g) $(press:%.17g) $(vol:%.17g)"\n'
        for ranks in (1, 2):
            run = self.lammps(text.replace("run 0", "unfix swap\nrun 0"), ranks)
            atoms = run.table("final.dump")
            swapped = Structure(structure.cell, ["Si" if kind == 1 else "O" for kind in atoms[:, 1]], atoms[:, 2:5])
            self.assertNotEqual(swapped.symbols, structure.symbols)
            reference = self.evaluate(swapped, model)
            results = [float(line.split()[1]) for line in run.output.splitlines() if line.startswith("RESULT")]
            # The first was computed with old lists and new types, the last with new lists.
            self.close(results, [reference.energy] * 2, 1e-9 * abs(reference.energy), "energy")


class Mechanics(LammpsTest):
    def test_minimisation(self) -> None:
        structure = diamond((2, 1, 1), rattle=0.15)
        self.write("structure.data", structure.data(["Si"]))
        energies = []
        for ranks, style in ((1, "cg"), (2, "cg"), (2, "fire")):
            text = dynamics(structure, "sevennet-0", "Si", 1, run=f"velocity all set 0 0 0\nunfix 1\nmin_style {style}\nminimize 0 1e-3 500 2000")
            run = self.lammps(text, ranks)
            energies.append(run.result()[0])
            rows = thermo(run.output)
            self.assertLess(rows[-1, 2], rows[0, 2] - 0.1)
            self.assertIn("Stopping criterion = force tolerance", run.output)
        self.close(energies, [energies[0]] * 3, 1e-5, "minimal energies")
        relaxed = self.evaluate(diamond((2, 1, 1), rattle=0.0), "sevennet-0").energy
        self.close(energies[0], relaxed, 1e-5, "the crystal")

    def test_relaxation_of_the_cell(self) -> None:
        structure = diamond((1, 1, 1), a=5.6, rattle=0.02)
        self.write("structure.data", structure.data(["Si"]))
        text = dynamics(structure, "sevennet-0", "Si", 1, run="velocity all set 0 0 0\nunfix 1\nfix r all box/relax iso 0.0 vmax 0.01\nminimize 0 1e-6 1000 5000\nrun 0")
        run = self.lammps(text, 2)
        _, _, pressure, volume = run.result()
        self.assertLess(abs(pressure), 100.0)
        side = volume ** (1 / 3)
        low, high = (self.evaluate(diamond((1, 1, 1), a=side + d, rattle=0.0), "sevennet-0").energy for d in (-0.02, 0.02))
        middle = self.evaluate(diamond((1, 1, 1), a=side, rattle=0.0), "sevennet-0").energy
        self.assertLess(middle, min(low, high))

    def test_constant_pressure(self) -> None:
        # Parrinello-Rahman dynamics with all six components: the conserved quantity of fix npt knows both forces and stress.
        structure = diamond((2, 1, 1))
        self.write("structure.data", structure.data(["Si"]))
        results = []
        for ranks in (1, 2):
            text = dynamics(
                structure,
                "sevennet-0",
                "Si",
                60,
                temperature="300",
                before="box tilt large",
                after="change_box all triclinic",
                fix="all npt temp 300 300 0.05 tri 20000 20000 0.3",
                thermo="2",
                run="thermo_style custom step temp pe ke econserve press vol\nthermo_modify format float %.17g\nrun 60",
            )
            rows = thermo(self.lammps(text, ranks).output)
            conserved = rows[:, 4] / len(structure)
            self.assertLess(np.max(np.abs(conserved - conserved[0])), 1e-3)
            self.assertGreater(np.ptp(rows[:, 6]), 0.5)
            results.append(rows[:, [2, 4, 6]])
        self.close(results[1][:10], results[0][:10], 1e-6, "two ranks against one")


if __name__ == "__main__":
    unittest.main()
