"""Wrong use of pair_style tesseral: LAMMPS' own error with an explanation, at once, on every rank; no crash and no hang."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

from harness import ROOT, LammpsTest, crystal, static_input

PLUGIN = ROOT / "crates/lammps/plugin"
LIBRARY = Path(os.environ.get("TESSERAL_LAMMPS_LIBRARY", ROOT / "target/release/libtesseral_lammps.a"))
WATER = """LAMMPS data

6 atoms
4 bonds
2 atom types
1 bond types
0 10 xlo xhi
0 10 ylo yhi
0 10 zlo zhi

Masses

1 15.999
2 1.008

Atoms # full

1 1 1 0 2 2 2
2 1 2 0 2.96 2 2
3 1 2 0 1.76 2.93 2
4 2 1 0 6 6 6
5 2 2 0 6.96 6 6
6 2 2 0 5.76 6.93 6

Bonds

1 1 1 2
2 1 1 3
3 1 4 5
4 1 4 6
"""
MOLECULES = """units metal
atom_style full
bond_style zero
special_bonds {special}
read_data structure.data
bond_coeff * 1.0
pair_style {style}
pair_coeff {coeff}
run 0
print "RESULT $(pe:%.17g)"
"""


class Misuse(LammpsTest):
    def setUp(self) -> None:
        super().setUp()
        self.structure = crystal((2, 2, 2))
        self.write("structure.data", self.structure.data(["Si", "O", "Fe"]))

    def refused(self, *messages: str, ranks: tuple[int, ...] = (2,), **changes: str) -> None:
        text = static_input(self.structure, "sevennet-0", "Si O Fe", **changes)
        for count in ranks:
            with self.subTest(ranks=count, **changes):
                run = self.lammps(text, count, fails=True)
                self.assertIn("ERROR", run.output)
                for message in messages:
                    self.assertTrue(message in run.output, f"no `{message}` in\n" + "\n".join(run.output.splitlines()[-30:]))

    def test_pair_style(self) -> None:
        self.refused("no keyword precision", "dtype f32|f64", style="tesseral precision double")
        self.refused("dtype is f32 or f64, not f16", style="tesseral dtype f16")
        self.refused("radial is tables or exact, not spline", style="tesseral radial spline")
        self.refused("threads is 1 or more", style="tesseral threads 0")
        self.refused("threads", style="tesseral threads many")
        self.refused("keyword head wants a value", style="tesseral head")

    def test_pair_coeff(self) -> None:
        self.refused("element for each of the 3 atom types, and pair_coeff names 2", coeff="* * sevennet-0 Si O")
        self.refused("element for each of the 3 atom types, and pair_coeff names 4", coeff="* * sevennet-0 Si O Fe Fe")
        self.refused("pair_coeff", "* * MODEL", coeff="* *")
        self.refused("* *", coeff="1 2 sevennet-0 Si O Fe")
        self.refused("atom type 2 is NULL", "hybrid", coeff="* * sevennet-0 Si NULL Fe")

    def test_elements(self) -> None:
        self.refused("Xx", "hint", coeff="* * sevennet-0 Si O Xx")
        model = self.golden("residual_lmax3_nu3")
        self.refused("Au", "hint", coeff=f"* * {model} Si O Au")

    def test_models(self) -> None:
        self.refused("no model is called `sevenet-0`", "hint", "sevennet-0", coeff="* * sevenet-0 Si O Fe")
        self.refused("absent.safetensors", coeff="* * ./absent.safetensors Si O Fe")
        self.write("garbage.safetensors", "not a model")
        self.refused("garbage.safetensors", coeff="* * garbage.safetensors Si O Fe")
        self.refused("head", "nonsense", style="tesseral head nonsense")
        two = self.golden("density_two_heads_agnesi_zbl")
        self.refused("head", "r2scan", coeff=f"* * {two} Si O Fe")

    def test_devices(self) -> None:
        self.refused("`gpu` is no device", "cpu, cuda", style="tesseral device gpu")
        self.refused("built without CUDA", "hint", style="tesseral device cuda")

    def test_failure_of_a_step(self) -> None:
        # One atom leaves for infinity: the rank that has it fails, and all end, rather than wait in an exchange.
        broken = "group one id 1\nvelocity one set 1e306 0 0 units box\ntimestep 1e6\nfix 1 all nve\nneigh_modify every 1000 delay 1000 check no\n"
        self.refused("Pair style tesseral: ", "position", ranks=(1, 2, 4), after=broken, run="run 5")

    def test_settings_of_lammps(self) -> None:
        self.refused("wants newton on", "hint", before="newton off")
        self.refused("wants newton on", before="newton off on")
        self.refused("units metal or real, not si", units="si")
        self.refused("units metal or real, not lj", units="lj")
        self.refused("`neigh_modify exclude`", "hint", after="neigh_modify exclude type 1 2")
        self.refused("`neigh_modify exclude`", after="group g id 1 2\nneigh_modify exclude group g g")
        self.refused("`neigh_modify include`", after="group g id 1 2\natom_modify first g\nneigh_modify include g")

    def test_small_cells(self) -> None:
        # What LAMMPS itself cannot do: tiled domains whose ghosts would be more than one box away.
        self.refused("cannot exceed periodic box length", ranks=(2,), before="comm_style tiled", after="balance 1.0 rcb", neighbor="2.0 bin")

    def test_hybrid(self) -> None:
        pair = "hybrid tesseral lj/cut 4.0"
        self.refused("gives types 1 and 2 to another style", "hybrid/overlay", style=pair, coeff="* * tesseral sevennet-0 Si O Fe\npair_coeff 1 2 lj/cut 0.1 2.0")
        self.refused("gives types 1 and 1 to another style", style=pair, coeff="* * tesseral sevennet-0 Si O Fe\npair_coeff 2 3 lj/cut 0.1 2.0\npair_coeff 1 1 none")
        self.refused("all atom types are NULL", style=pair, coeff="* * lj/cut 0.1 2.0\npair_coeff * * tesseral sevennet-0 NULL NULL NULL")
        self.refused("element for each of the 3 atom types", style=pair, coeff="* * lj/cut 0.1 2.0\npair_coeff * * tesseral sevennet-0 Si")

    def test_exclusions_among_other_types(self) -> None:
        # Pairs that this style does not see may be left out.
        text = static_input(
            self.structure,
            "sevennet-0",
            "Si O Fe",
            style="hybrid tesseral lj/cut 4.0",
            coeff="* 3 lj/cut 0.001 1.0\npair_coeff * * tesseral sevennet-0 Si O NULL",
            after="neigh_modify exclude type 3 3",
        )
        self.lammps(text, 2)

    def test_special_bonds(self) -> None:
        self.write("structure.data", WATER)
        water = "* * sevennet-0 O H"
        style = "tesseral dtype f64 radial exact"
        energies = []
        for ranks in (1, 2):
            run = self.lammps(MOLECULES.format(special="lj/coul 0 0 0.5", style=style, coeff=water), ranks, fails=True)
            self.assertIn("special_bonds leaves bonded ones out", run.output)
            for special in ("lj/coul 1 1 1", "lj/coul 1e-100 1e-100 1e-100"):
                energies.append(self.lammps(MOLECULES.format(special=special, style=style, coeff=water), ranks).result()[0])
        self.close(energies, [energies[0]] * 4, 1e-9, "energies")
        # Without bonds nothing is left out, whatever special_bonds says.
        self.write("structure.data", WATER.split("Bonds")[0].replace("4 bonds", "0 bonds"))
        text = MOLECULES.format(special="lj/coul 0 0 0", style=style, coeff=water)
        self.close(self.lammps(text, 2).result()[0], energies[0], 1e-9, "energy")

    def test_one_rank_alone_fails(self) -> None:
        # The model is missing on one rank: all end, with the message of that rank.
        model = Path(self.golden("residual_lmax3_nu3"))
        (self.folder / "own").mkdir()
        (self.folder / model).rename(self.folder / "own" / model)
        text = static_input(self.structure, str(model), "Si O Fe")
        self.write("in.lammps", text)
        self.write("start.sh", f'[ "$PMI_RANK" = 1 ] || export LAMMPS_POTENTIALS="$PWD/own"\nexec {sys.prefix}/bin/lmp -in in.lammps -log none\n')
        from harness import BIN, TIMEOUT, environment

        done = subprocess.run(
            [str(BIN / "mpirun"), "-n", "2", "sh", "start.sh"], cwd=self.folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("there is no model file", done.stdout + done.stderr)


class Versions(LammpsTest):
    def test_other_versions(self) -> None:
        structure = crystal((2, 2, 2))
        self.write("structure.data", structure.data(["Si", "O", "Fe"]))
        for flag, message in (
            ("-UTESSERAL_LAMMPS_VERSION -DTESSERAL_LAMMPS_VERSION=20230802", "built for LAMMPS"),
            ("-DTESSERAL_WANTED_ABI=4711", "wants version 4711 of the C interface"),
        ):
            command = [sys.executable, str(PLUGIN / "build_plugin.py"), "--library", str(LIBRARY), "-o", str(self.folder / "other")]
            command += [f"--flag={part}" for part in flag.split()] + ["--flag=-O0"]
            subprocess.run(command, check=True, capture_output=True)
            # Found, but not used: no harm. Used: an error.
            load = "plugin unload pair tesseral\nplugin load other/tesseralplugin.so\n"
            self.lammps(load + 'print "RESULT 1"\n', 2)
            run = self.lammps(load + static_input(structure, "sevennet-0", "Si O Fe"), 2, fails=True)
            self.assertIn(message, run.output)
            self.assertIn("hint: build", run.output)


if __name__ == "__main__":
    unittest.main()
