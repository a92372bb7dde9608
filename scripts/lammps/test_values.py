"""Energies, forces and pressures of pair_style tesseral at 1, 2 and 4 ranks, against `tesseral evaluate`."""

from __future__ import annotations

import re
import unittest

import numpy as np

from harness import ATMOSPHERE, BAR, KCAL_PER_MOL, RANKS, LammpsTest, Structure, crystal, static_input

MACE = "residual_lmax3_nu3"    # two layers, O Si Fe, 4 Å
DEEP = "three_layers_odd_scalars_chebyshev"    # three layers, H C O, 4 Å
ZBL = "density_two_heads_agnesi_zbl"    # pair repulsion, heads pbe and r2scan, O Si Fe
NEQUIP = "parity_zbl_per_type"


class Values(LammpsTest):
    def everywhere(self, structure: Structure, model: str, elements: str, options: tuple[str, ...] = (), **changes: str) -> None:
        reference = self.evaluate(structure, model, *options)
        for ranks in RANKS:
            with self.subTest(ranks=ranks):
                self.agrees(self.static(structure, model, elements, ranks, **changes), structure, reference)

    def test_sevennet(self) -> None:
        self.everywhere(crystal((4, 3, 3)), "sevennet-0", "Si O Fe")

    def test_mace(self) -> None:
        self.everywhere(crystal((4, 4, 3)), self.golden(MACE), "Si O Fe")

    def test_three_layers(self) -> None:
        self.everywhere(crystal((4, 3, 3), 1.9, elements="C H O"), self.golden(DEEP), "C H O")

    def test_repulsion_and_heads(self) -> None:
        structure = crystal((4, 3, 3), 2.2)
        model = self.golden(ZBL)
        energies = []
        for head in ("pbe", "r2scan"):
            self.everywhere(structure, model, "Fe Si O", ("--head", head), style=f"tesseral dtype f64 radial exact head {head}")
            energies.append(self.evaluate(structure, model, "--head", head).energy)
        self.assertNotAlmostEqual(*energies, places=6)

    def test_triclinic(self) -> None:
        structure = crystal((3, 3, 3), tilt=(0.35, -0.4, 0.3))
        self.everywhere(structure, "sevennet-0", "O Si Fe")
        self.everywhere(structure, self.golden(MACE), "O Si Fe")

    def test_cell_much_smaller_than_the_cutoff(self) -> None:
        # Sub-domains of four ranks are a quarter of the cutoff wide: neighbours of neighbours of neighbours own the ghosts.
        structure = crystal((2, 1, 2), 2.7, tilt=(0.2, 0, 0.1))
        self.everywhere(structure, "sevennet-0", "O Si Fe")
        self.everywhere(structure, self.golden(MACE), "O Si Fe", processors="* 1 1")

    def test_slab(self) -> None:
        structure = crystal((3, 3, 2), vacuum=(0, 0, 12.0), pbc=(True, True, False))
        # LAMMPS divides by the volume of its box, the slab has none: the pressure is compared through a cell that is periodic, but empty.
        periodic = Structure(structure.cell, structure.symbols, structure.positions)
        stress = self.evaluate(periodic, self.golden(MACE)).stress
        for model in ("sevennet-0", self.golden(MACE)):
            reference = self.evaluate(structure, model)
            self.assertIsNone(reference.stress)
            reference.stress = self.evaluate(periodic, model).stress
            for ranks in RANKS:
                self.agrees(self.static(structure, model, "Si O Fe", ranks), structure, reference)
        self.assertGreater(np.max(np.abs(stress)), 1e-6)

    def test_ranks_without_atoms(self) -> None:
        # All atoms are in the first eighth of the box; without ghosts either, where the box is open.
        for pbc in ((True, True, True), (False, False, False)):
            structure = crystal((2, 2, 3), vacuum=(48.0, 0, 0) if pbc[0] else (48.0, 8.0, 8.0), pbc=pbc)
            for model in ("sevennet-0", self.golden(MACE)):
                reference = self.evaluate(structure, model)
                for ranks in (2, 4):
                    run = self.static(structure, model, "Si O Fe", ranks, processors=f"{ranks} 1 1")
                    self.agrees(run, structure, reference)
                    self.assertEqual(set(run.table("atoms.dump")[:, 1]), {0.0})

    def test_many_layouts(self) -> None:
        structure = crystal((3, 3, 3))
        model = self.golden(MACE)
        reference = self.evaluate(structure, model)
        for changes in (
            {"processors": "1 1 4"},
            {"before": "comm_style tiled", "after": "balance 1.0 rcb"},
            {"after": "comm_modify cutoff 9.0"},
            {"neighbor": "0.0 nsq"},
            {"after": "atom_modify sort 0 0.0"},
        ):
            with self.subTest(**changes):
                self.agrees(self.static(structure, model, "Si O Fe", 4, **changes), structure, reference)

    def test_tables(self) -> None:
        structure = crystal((3, 3, 2))
        for dtype, energy, force in (("f64", 1e-9, 1e-9), ("f32", 1e-6, 1e-4)):
            reference = self.evaluate(structure, self.golden(MACE), exact=False, dtype=dtype)
            for ranks in (1, 2):
                run = self.static(structure, self.golden(MACE), "Si O Fe", ranks, style=f"tesseral dtype {dtype}")
                self.close(run.result()[0], reference.energy, energy * abs(reference.energy), f"energy, {dtype}")
                self.close(run.table("atoms.dump")[:, 2:5], reference.forces, force, f"forces, {dtype}")

    def test_device(self) -> None:
        # The kernels of CUDA devices, thread by thread on the CPU: rows of ranks are exchanged through the host.
        structure = crystal((2, 2, 2))
        reference = self.evaluate(structure, self.golden(MACE), exact=False)
        for ranks in (1, 2):
            self.write("structure.data", structure.data(["Si", "O", "Fe"]))
            text = static_input(structure, self.golden(MACE), "Si O Fe", style="tesseral dtype f64 device emulated")
            run = self.lammps(re.sub(r"^compute sa.*\n| c_sa\[.\]", "", text, flags=re.M), ranks)
            self.close(run.result()[0], reference.energy, 1e-9 * abs(reference.energy), "energy")
            self.close(run.table("atoms.dump")[:, 2:5], reference.forces, 1e-9, "forces")
            s = reference.stress * -BAR
            expected = [s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[0, 2], s[1, 2]]
            self.close(run.result()[1:], expected, 1e-9 * np.max(np.abs(expected)), "pressure")

    def test_types(self) -> None:
        # Several types of one element, in another order than the model's, and a type without atoms.
        structure = crystal((3, 3, 2))
        reference = self.evaluate(structure, self.golden(MACE))
        structure.symbols = [f"{s}{k % 2}" if s == "Si" else s for k, s in enumerate(structure.symbols)]
        run = self.static(structure, self.golden(MACE), "Fe Si1 O H Si0", 2, coeff=f"* * {self.golden(MACE)} Fe Si O Si Si")
        self.agrees(run, structure, reference)

    def test_real_units(self) -> None:
        structure = crystal((3, 3, 2))
        reference = self.evaluate(structure, "sevennet-0")
        for ranks in (1, 2):
            self.agrees(self.static(structure, "sevennet-0", "Si O Fe", ranks, units="real"), structure, reference, KCAL_PER_MOL, ATMOSPHERE)

    def test_far_from_the_origin(self) -> None:
        structure = crystal((3, 3, 2))
        reference = self.evaluate(structure, self.golden(MACE))
        run = self.static(structure, self.golden(MACE), "Si O Fe", 2, after="change_box all x final 10000 10007.8 y final -20000 -19992.2 z final 0 5.2 remap units box")
        energy, *pressures = run.result()
        self.close(energy, reference.energy, 1e-9 * abs(reference.energy), "energy")
        s = reference.stress * -BAR
        expected = [s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[0, 2], s[1, 2]]
        self.close(pressures, expected, 1e-8 * np.max(np.abs(expected)), "pressure")

    def test_numerical_derivatives(self) -> None:
        structure = crystal((2, 2, 2), 2.5)
        measure = """variable ex atom abs(f_nd[1]-fx)+abs(f_nd[2]-fy)+abs(f_nd[3]-fz)
compute ex all reduce max v_ex
"""
        for model in ("sevennet-0", self.golden(MACE)):
            for ranks in RANKS:
                run = self.static(
                    structure,
                    model,
                    "Si O Fe",
                    ranks,
                    after="fix nd all numdiff 1 0.0005\nfix nv all numdiff/virial 1 0.000002\n" + measure,
                    run="thermo_style custom step pe c_pp[1] c_pp[2] c_pp[3] c_pp[4] c_pp[5] c_pp[6] c_ex f_nv[1] f_nv[2] f_nv[3] f_nv[4] f_nv[5] f_nv[6]\nrun 0\n"
                    'print "NUMERICAL $(c_ex:%.17g) $(f_nv[1]:%.17g) $(f_nv[2]:%.17g) $(f_nv[3]:%.17g) $(f_nv[4]:%.17g) $(f_nv[5]:%.17g) $(f_nv[6]:%.17g)"',
                )
                line = next(line for line in run.output.splitlines() if line.startswith("NUMERICAL"))
                worst, *virial = [float(x) for x in line.split()[1:]]
                _, *pressures = run.result()
                self.assertLess(worst, 2e-5)
                # fix numdiff/virial counts xx, yy, zz, yz, xz, xy.
                expected = [pressures[k] for k in (0, 1, 2, 5, 4, 3)]
                self.close(virial, expected, 1e-5 * np.max(np.abs(expected)), "virial")


class Hybrid(LammpsTest):
    def both(self, structure: Structure, model: str, elements: str, other: str, coefficients: str, tesseral: str = "") -> None:
        """The sum of this style and another, against the two alone."""
        reference = self.evaluate(structure, model)
        for ranks in RANKS:
            alone = self.static(structure, model, elements, ranks, style=other, coeff=coefficients.format(style=""))
            energy, *pressures = alone.result()
            table = alone.table("atoms.dump")
            name = other.split()[0]
            for order in (f"tesseral dtype f64 radial exact {other}", f"{other} tesseral dtype f64 radial exact"):
                run = self.static(
                    structure,
                    model,
                    elements,
                    ranks,
                    style=f"hybrid/overlay {order}",
                    coeff=f"* * tesseral {model} {elements}\npair_coeff " + coefficients.format(style=name),
                )
                total, *sums = run.result()
                self.close(total, energy + reference.energy, 1e-9 * abs(reference.energy), "energy")
                found = run.table("atoms.dump")
                self.close(found[:, 2:5], table[:, 2:5] + reference.forces, 1e-9, "forces")
                self.close(found[:, 5], table[:, 5] + reference.atomic_energies, 1e-9 * abs(reference.energy), "atomic energies")
                s = reference.stress * -BAR
                expected = np.array([s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[0, 2], s[1, 2]]) + pressures
                self.close(sums, expected, 1e-9 * np.max(np.abs(expected)), "pressure")

    def test_with_a_longer_and_a_shorter_cutoff(self) -> None:
        structure = crystal((3, 3, 2))
        self.both(structure, self.golden(MACE), "Si O Fe", "lj/cut 7.0", "* * {style} 0.05 2.2")
        self.both(structure, self.golden(MACE), "Si O Fe", "lj/cut 3.0", "* * {style} 0.05 2.2")
        self.both(structure, "sevennet-0", "Si O Fe", "zero 9.0", "* * {style}")

    def test_untrimmed_lists(self) -> None:
        structure = crystal((3, 3, 2))
        reference = self.evaluate(structure, self.golden(MACE))
        run = self.static(
            structure,
            self.golden(MACE),
            "Si O Fe",
            2,
            style="hybrid/overlay tesseral dtype f64 radial exact zero 9.0 full",
            coeff=f"* * tesseral {self.golden(MACE)} Si O Fe\npair_coeff * * zero",
            after="pair_modify neigh/trim no",
        )
        self.agrees(run, structure, reference)

    def test_types_of_other_styles(self) -> None:
        # A crystal in this style beside atoms that belong to lj/cut: what is seen must be the crystal alone.
        crystalline = crystal((3, 3, 2))
        reference = self.evaluate(Structure(crystalline.cell + np.diag([0, 0, 30.0]), crystalline.symbols, crystalline.positions), self.golden(MACE))
        gas = np.array([(1.3 + 2.6 * i, 1.3 + 2.6 * j, z) for i in range(3) for j in range(3) for z in (-2.0, 7.0, 10.0)])
        gas[:, 2] %= 35.2
        both = Structure(crystalline.cell + np.diag([0, 0, 30.0]), ["C"] * len(gas) + crystalline.symbols, np.vstack([gas, crystalline.positions]))
        model = self.golden(MACE)
        for style in ("hybrid", "hybrid/overlay"):
            for ranks in RANKS:
                alone = self.static(
                    both, model, "C Si O Fe", ranks, style="hybrid/overlay lj/cut 6.0 zero 9.0", coeff="1 * lj/cut 0.004 2.5\npair_coeff 2*4 2*4 zero"
                )
                # The next run writes over the file.
                forces = alone.table("atoms.dump")[:, 2:5]
                forces[len(gas):] += reference.forces
                run = self.static(
                    both,
                    model,
                    "C Si O Fe",
                    ranks,
                    style=f"{style} lj/cut 6.0 tesseral dtype f64 radial exact",
                    coeff=f"1 * lj/cut 0.004 2.5\npair_coeff * * tesseral {model} NULL Si O Fe",
                )
                self.close(run.result()[0], alone.result()[0] + reference.energy, 1e-9 * abs(reference.energy), "energy")
                self.close(run.table("atoms.dump")[:, 2:5], forces, 1e-9, "forces")

    def test_two_models(self) -> None:
        structure = crystal((3, 3, 2))
        one, two = self.golden(MACE), "sevennet-0"
        references = [self.evaluate(structure, m) for m in (one, two)]
        for ranks in (1, 2):
            run = self.static(
                structure,
                one,
                "Si O Fe",
                ranks,
                style="hybrid/overlay tesseral dtype f64 radial exact tesseral dtype f64 radial exact",
                coeff=f"* * tesseral 1 {one} Si O Fe\npair_coeff * * tesseral 2 {two} Si O Fe",
            )
            self.close(run.result()[0], sum(r.energy for r in references), 1e-9 * abs(references[1].energy), "energy")
            self.close(run.table("atoms.dump")[:, 2:5], sum(r.forces for r in references), 1e-9, "forces")

    def test_scaled(self) -> None:
        structure = crystal((3, 3, 2))
        reference = self.evaluate(structure, self.golden(MACE))
        run = self.static(
            structure,
            self.golden(MACE),
            "Si O Fe",
            2,
            style="hybrid/scaled 0.25 tesseral dtype f64 radial exact 0.75 zero 5.0",
            coeff=f"* * tesseral {self.golden(MACE)} Si O Fe\npair_coeff * * zero",
        )
        self.close(run.result()[0], 0.25 * reference.energy, 1e-9 * abs(reference.energy), "energy")
        self.close(run.table("atoms.dump")[:, 2:5], 0.25 * reference.forces, 1e-9, "forces")


if __name__ == "__main__":
    unittest.main()
