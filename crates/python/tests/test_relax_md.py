"""Relaxation and dynamics of Atoms."""

import json
import subprocess
import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from conftest import rattled, write_extxyz

import tesseral
from tesseral import Calculator, InputError, Potential, TesseralError


def test_relax_one(ethanol):
    before = ethanol.copy()
    ethanol.info["name"] = "ethanol"
    relaxed = tesseral.relax(ethanol, max_force=0.01)
    assert (ethanol.positions == before.positions).all() and ethanol.calc is None
    assert relaxed.info["converged"] is True
    assert relaxed.info["relax_steps"] > 0
    assert relaxed.info["relax_end"] == "converged"
    assert relaxed.info["name"] == "ethanol"
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.01
    # What is attached are the results at the positions that are returned.
    again = Potential().evaluate(relaxed)
    assert again.energy == relaxed.get_potential_energy()
    assert (again.forces == relaxed.get_forces()).all()
    # The minimum that an optimiser of ASE finds.
    ethanol.calc = Calculator()
    BFGS(ethanol, logfile=None).run(fmax=0.005)
    assert abs(ethanol.get_potential_energy() - relaxed.get_potential_energy()) < 1e-3


def test_relax_a_cell_under_pressure():
    atoms = bulk("NaCl", "rocksalt", 6.0)
    relaxed = tesseral.relax(atoms, Potential(dtype="float64"), cell="full", max_force=1e-4, max_stress=0.001, pressure=2.0)
    assert relaxed.info["converged"]
    assert np.abs(relaxed.get_stress()[:3] / units.GPa + 2.0).max() < 0.002
    other = atoms.copy()
    other.calc = Calculator(dtype="float64")
    BFGS(FrechetCellFilter(other, scalar_pressure=2.0 * units.GPa), logfile=None).run(fmax=1e-4)
    assert abs(other.get_volume() - relaxed.get_volume()) < 1e-2


def test_relax_many():
    many = [rattled(bulk("NaCl", "rocksalt", 5.4 + 0.05 * k, cubic=True), k) for k in range(6)] + [rattled(molecule("H2O"), 9)]
    potential = Potential()
    relaxed = tesseral.relax(many, potential, max_force=0.02)
    assert [atoms.info["converged"] for atoms in relaxed] == [True] * 7
    alone = [tesseral.relax(atoms, potential, max_force=0.02) for atoms in many]
    for one, together in zip(alone, relaxed, strict=True):
        assert (one.positions == together.positions).all()
    assert tesseral.relax([]) == []


def test_relax_as_the_command_line(binary, tmp_path):
    many = [rattled(bulk("Si", cubic=True), 3), rattled(bulk("NaCl", "rocksalt", 5.7), 4)]
    write_extxyz(tmp_path / "in.extxyz", many)
    command = [binary, "relax", "in.extxyz", "-o", "out.extxyz", "--json", "--max-force", "0.02", "--cell", "isotropic", "--method", "fire"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    relaxed = tesseral.relax(many, max_force=0.02, cell="isotropic", method="fire")
    for line, atoms in zip(done.stdout.splitlines(), relaxed, strict=True):
        expected = json.loads(line)
        assert expected["energy"] == atoms.get_potential_energy()
        assert expected["positions"] == atoms.positions.tolist()
        assert expected["cell"] == atoms.cell.tolist()
        assert expected["forces"] == atoms.get_forces().tolist()
        assert (expected["steps"], expected["end"]) == (atoms.info["relax_steps"], atoms.info["relax_end"])


def test_relax_with_constraints():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    bottom = [atom.index for atom in slab if atom.tag == 3]
    slab.set_constraint([FixAtoms(bottom), FixCartesian(4, mask=(True, False, True))])
    relaxed = tesseral.relax(slab, steps=15)
    moved = relaxed.positions - slab.positions
    assert (moved[bottom] == 0.0).all()
    assert moved[4, 0] == moved[4, 2] == 0.0
    assert np.abs(moved[-1]).max() > 1e-3
    assert [type(c).__name__ for c in relaxed.constraints] == ["FixAtoms", "FixCartesian"]
    free = tesseral.relax(slab, steps=15, ignore_constraints=True)
    assert np.abs(free.positions - slab.positions)[bottom].max() > 1e-4
    slab.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(InputError, match="FixBondLengths cannot be kept"):
        tesseral.relax(slab)
    with pytest.raises(InputError, match="structure 1: a constraint") as caught:
        tesseral.relax([bulk("Cu"), slab])
    assert caught.value.index == 1


def test_relax_that_does_not_converge(silicon):
    unfinished = tesseral.relax(silicon, steps=1, max_force=1e-6)
    assert unfinished.info["converged"] is False
    assert unfinished.info["relax_end"] == "out of steps"
    assert np.isfinite(unfinished.get_potential_energy())


def test_relax_wrong(silicon):
    for arguments, what in [
        ({"max_force": -1.0}, "force"),
        ({"method": "newton"}, "no method"),
        ({"cell": "round"}, "cell="),
        ({"strain": "xx"}, "cell is fixed"),
        ({"strain": "ab", "cell": "full"}, "no component"),
        ({"pressure": 1.0}, "pressure"),
    ]:
        with pytest.raises(InputError, match=what):
            tesseral.relax(silicon, **arguments)
    with pytest.raises(InputError, match="structure 1: the structure has no atoms"):
        tesseral.relax([silicon, Atoms()])
    unknown = bulk("Po", "sc", 3.3)
    unknown.numbers[:] = 100
    with pytest.raises(InputError, match="structure 1: .*does not know Fm") as caught:
        tesseral.relax([silicon, unknown])
    assert caught.value.index == 1
    silicon.calc = EMT()
    with pytest.raises(InputError, match="not of tesseral"):
        tesseral.relax(silicon)


def test_the_potential_of_the_atoms(silicon):
    silicon.calc = Calculator(dtype="float64")
    double = tesseral.relax(silicon, steps=2)
    assert double.get_potential_energy() == tesseral.relax(silicon, Potential(dtype="float64"), steps=2).get_potential_energy()
    assert double.get_potential_energy() != tesseral.relax(silicon, "sevennet-0", steps=2).get_potential_energy()
    # Results of an earlier relaxation are no potential.
    assert tesseral.relax(double, steps=1).get_potential_energy() != 0.0


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "nose-hoover", "bussi", "npt-scr", "npt-mtk"])
def test_md(silicon, ensemble):
    pressure = {"pressure": 1.0} if ensemble.startswith("npt") else {}
    run = tesseral.md(silicon, steps=20, ensemble=ensemble, temperature=300, save_every=5, log_every=4, time_step=1.0, **pressure)
    assert run.outcome == "done" and run.violation is None
    assert [frame.info["step"] for frame in run] == [0, 5, 10, 15, 20]
    assert run.thermo["step"].tolist() == [0, 4, 8, 12, 16, 20]
    assert len(run) == len(run.frames) == 5
    last = run[-1]
    assert (last.positions == run.final.positions).all()
    assert (last.get_momenta() == run.final.get_momenta()).all()
    assert last.get_momenta().any()
    # Energies and forces belong to the positions of their frame.
    again = Potential(dtype="float32").evaluate(last)
    assert abs(again.energy - last.get_potential_energy()) < 1e-4
    assert np.abs(again.forces - last.get_forces()).max() < 1e-4
    assert np.abs(again.stress - last.get_stress()).max() < 1e-5
    # ASE counts 3N degrees of freedom, the run those of its dynamics, without the centre of mass.
    assert np.isclose(last.get_temperature() * 8 / 7, last.info["temperature"], rtol=1e-6)
    assert not run.folder.exists()


def test_md_in_a_folder_and_on(silicon, tmp_path, binary):
    folder = tmp_path / "run"
    arguments = {"steps": 40, "ensemble": "langevin", "time_step": 1.0, "save_every": 10, "log_every": 10, "restart_every": 20, "seed": 3}
    whole = tesseral.md(silicon, folder=tmp_path / "whole", **arguments)
    assert (whole.folder / "report.html").exists()
    part = tesseral.md(silicon, folder=folder, **{**arguments, "steps": 20})
    assert part.steps == 20
    with pytest.raises(InputError, match="is not empty"):
        tesseral.md(silicon, folder=folder, **arguments)
    with pytest.raises(InputError, match="was computed with"):
        tesseral.md(None, Potential(dtype="float64"), folder=folder, resume=True, steps=40)
    longer = tesseral.md(None, folder=folder, resume=True, steps=40)
    assert (longer.final.positions == whole.final.positions).all()
    assert (folder / "trajectory.extxyz").read_bytes() == (whole.folder / "trajectory.extxyz").read_bytes()
    assert longer[-1].get_potential_energy() == whole[-1].get_potential_energy()
    # The command line goes on with the run of Python: names, weights and settings are the same to it.
    subprocess.run([binary, "md", "--resume", "-o", str(folder), "--steps", "60"], check=True, capture_output=True)
    assert json.loads((folder / "thermo.jsonl").read_text().splitlines()[-1])["step"] == 60


def test_md_as_the_command_line(silicon, tmp_path, binary):
    write_extxyz(tmp_path / "si.extxyz", [silicon])
    command = [binary, "md", "si.extxyz", "-o", "run", "-n", "30", "-e", "npt-scr", "-T", "300:400", "-P", "1", "--seed", "5", "--save-every", "10"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    tesseral.md(silicon, folder=tmp_path / "mine", steps=30, ensemble="npt-scr", temperature=(300, 400), pressure=1.0, seed=5, save_every=10)
    for file in ("trajectory.extxyz", "thermo.jsonl", "rdf.csv", "final.extxyz"):
        assert (tmp_path / "mine" / file).read_bytes() == (tmp_path / "run" / file).read_bytes(), file


def test_md_velocities_masses_constraints(silicon):
    thermalize_momenta(silicon, temperature_K=500, rng=np.random.default_rng(1))
    momenta = silicon.get_momenta()
    momenta -= momenta.mean(axis=0)
    silicon.set_momenta(momenta)
    run = tesseral.md(silicon, steps=1, ensemble="nve", save_every=1)
    assert np.abs(run[0].get_momenta() - momenta).max() < 1e-12
    drawn = tesseral.md(silicon, steps=1, ensemble="nve", save_every=1, keep_velocities=False)
    assert np.abs(drawn[0].get_momenta() - momenta).max() > 1e-2
    silicon.set_constraint(FixAtoms([0, 1]))
    silicon.set_tags(range(8))
    held = tesseral.md(silicon, steps=5, save_every=5)
    assert (held.final.positions[:2] == silicon.positions[:2]).all()
    assert (held.final.positions[2:] != silicon.positions[2:]).any()
    assert held.final.get_tags().tolist() == list(range(8))
    silicon.set_constraint(FixCartesian(0, mask=(True, False, False)))
    with pytest.raises(InputError, match="some directions"):
        tesseral.md(silicon, steps=1)
    water = molecule("H2O")
    water.set_masses([15.999, 2.014, 2.014])
    heavy = tesseral.md(water, steps=2, save_every=1, log_every=1, ensemble="nve", temperature=300)
    assert np.isclose(heavy.thermo["kinetic"][-1], heavy.final.get_kinetic_energy(), rtol=1e-9)
    water.set_masses([15.999, 2.014, 1.008])
    with pytest.raises(InputError, match="different masses"):
        tesseral.md(water, steps=2)


def test_md_replicas(silicon):
    runs = tesseral.md(silicon, steps=4, replicas=3, save_every=2, seed=7)
    assert len(runs) == 3
    alone = tesseral.md(silicon, steps=4, save_every=2, seed=8)
    assert np.abs(runs[1].final.positions - alone.final.positions).max() < 1e-6
    assert (runs[0].final.positions != runs[1].final.positions).any()


def test_md_guards(silicon):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = tesseral.md(silicon, steps=200, temperature=3000, ensemble="langevin", guards=["force=stop:5"], save_every=1)
    assert run.outcome == "stopped"
    assert "force" in run.violation
    assert run.steps < 200
    with pytest.raises(InputError, match="no guard"):
        tesseral.md(silicon, steps=1, guards=["luck=stop"])


def test_md_wrong(silicon, tmp_path):
    for arguments, what in [
        ({}, "how long"),
        ({"steps": 1, "time": 1.0}, "both steps and time"),
        ({"time": -1.0}, "positive number of ps"),
        ({"steps": 1, "ensemble": "nvp"}, "no ensemble"),
        ({"steps": 1, "pressure": 1.0}, "constant pressure"),
        ({"steps": 1, "temperature": "hot"}, "temperature"),
        ({"steps": 1, "time_step": 0.0}, "time_step"),
        ({"steps": 1, "format": "pdf"}, "no format"),
        ({"steps": 1, "skin": -1.0}, "skin"),
        ({"steps": 1, "resume": True}, "needs the folder"),
        ({"steps": 1, "replicas": 0}, "0 replicas"),
    ]:
        with pytest.raises(InputError, match=what):
            tesseral.md(silicon, **arguments)
    with pytest.raises(InputError, match="which atoms"):
        tesseral.md(None, steps=1)
    with pytest.raises(TypeError, match="one structure"):
        tesseral.md([silicon, silicon], steps=1)
    with pytest.raises(TesseralError):
        tesseral.md(None, folder=tmp_path / "nothing", resume=True)
    # A structure that cannot be simulated leaves nothing behind.
    silicon.numbers[0] = 100
    with pytest.raises(InputError, match="does not know Fm"):
        tesseral.md(silicon, steps=1, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_md_netcdf(silicon, tmp_path):
    run = tesseral.md(silicon, steps=4, save_every=2, format="netcdf", folder=tmp_path / "run")
    assert (run.folder / "trajectory.nc").exists()
    with pytest.raises(InputError, match="NetCDF"):
        len(run)
    assert len(run.final) == 8
    assert tesseral.md(silicon, steps=4, save_every=2, format="extxyz-gz")[-1].info["step"] == 4
