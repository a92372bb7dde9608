"""The ASE calculator: the numbers, and what ASE expects of a calculator."""

import copy
import pickle
import re

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.db import connect
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE, LBFGS
from ase.stress import voigt_6_to_full_3x3_stress
from conftest import NAMES, rattled, structures

from tesseral import Calculator, InputError


@pytest.mark.parametrize("name", NAMES)
def test_bits_of_the_command_line(expected, name):
    dtype, of_command_line = expected
    atoms, result = structures()[name], of_command_line[name]
    atoms.calc = Calculator(dtype=dtype)
    assert atoms.get_potential_energy() == result["energy"]
    assert atoms.get_potential_energy(force_consistent=True) == result["energy"]
    assert atoms.get_forces().tolist() == result["forces"]
    assert atoms.get_potential_energies().tolist() == result["atomic_energies"]
    if all(atoms.pbc):
        # ASE's order, xx yy zz yz xz xy, against the matrix.
        assert voigt_6_to_full_3x3_stress(atoms.get_stress()).tolist() == result["stress"]
        assert atoms.get_stress()[4] == result["stress"][0][2] != result["stress"][0][1]
    else:
        assert result.get("stress") is None
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()


def test_results_do_not_depend_on_what_came_before(silicon):
    calculator = Calculator()
    fresh = rattled(silicon, 7, 0.02)
    fresh.calc = Calculator()
    for seed in range(3):
        moved = rattled(silicon, seed, 0.02)
        moved.calc = calculator
        moved.get_forces()
    fresh_again = fresh.copy()
    fresh_again.calc = calculator
    assert (fresh_again.get_forces() == fresh.get_forces()).all()


def test_a_skin_changes_the_last_bits_at_most(silicon):
    with_skin = Calculator(dtype="float64", skin=0.5)
    without = Calculator(dtype="float64")
    for seed in range(4):
        moved = rattled(silicon, seed, 0.02)
        moved.calc = with_skin
        forces = moved.get_forces()
        moved.calc = without
        assert np.abs(forces - moved.get_forces()).max() < 1e-12


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bits_do_not_depend_on_threads(silicon, threads):
    crystal = silicon * (3, 3, 2)
    crystal.calc = Calculator(threads=threads)
    reference = Calculator(threads=3)
    assert crystal.calc.potential.threads == threads
    assert (crystal.get_forces() == reference.get_forces(crystal)).all()
    assert (crystal.get_stress() == reference.get_stress(crystal)).all()


def test_forces_are_the_derivative_of_the_energy(atoms):
    atoms.calc = Calculator(dtype="float64")
    some = range(min(3, len(atoms)))
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=some)
    assert np.abs(atoms.get_forces()[: len(numerical)] - numerical).max() < 1e-6


@pytest.mark.parametrize("name", ["silicon", "skewed", "left-handed"])
def test_stress_is_the_derivative_of_the_energy(name):
    atoms = structures()[name]
    atoms.calc = Calculator(dtype="float64")
    numerical = calculate_numerical_stress(atoms, eps=1e-4)
    assert np.abs(atoms.get_stress() - numerical).max() < 1e-7


def test_foreign_checkpoints_heads_and_charges(golden, evaluated):
    for name in ("nequip/preset_s.ckpt", "mace/one_layer_gaussian.model", "sevennet/parity_nequip_connection.pth"):
        path = golden(name)
        calculator = Calculator(path, dtype="float64")
        symbols = calculator.potential.elements[:2]
        atoms = Atoms(symbols[0] + 2 * symbols[-1], [[0, 0, 0], [0, 0.2, 1.3], [1.2, 0, -0.4]], cell=[4, 5, 6], pbc=[True, False, True])
        (result,) = evaluated([atoms], "-m", path, "--dtype", "f64")
        assert calculator.get_potential_energy(atoms) == result["energy"]
        assert calculator.get_forces(atoms).tolist() == result["forces"]
    path = golden("mace/plain_class_two_heads_zbl.model")
    with pytest.raises(InputError, match="several heads"):
        Calculator(path)
    with pytest.raises(InputError, match="no head `nobody`"):
        Calculator(path, head="nobody")
    several = Calculator(path, head=_heads(path)[0])
    other = Calculator(path, head=_heads(path)[1])
    pair = Atoms(several.potential.elements[0] * 2, [[0, 0, 0], [0, 0, 1.5]])
    assert several.get_potential_energy(pair) != other.get_potential_energy(pair)
    (result,) = evaluated([pair], "-m", path, "--head", _heads(path)[1])
    assert other.get_potential_energy(pair) == result["energy"]


def _heads(path):
    try:
        Calculator(path)
    except InputError as error:
        return re.findall(r"[A-Za-z0-9_]+", error.message.rpartition(":")[2])
    raise AssertionError("the model has one head")


def test_charge_is_an_input_that_is_watched(golden, evaluated):
    path = golden("mace/continuous_charge.model")
    calculator = Calculator(path, dtype="float64")
    assert calculator.potential.inputs
    symbols = calculator.potential.elements[:2]
    atoms = Atoms(symbols, [[0, 0, 0], [0, 0.2, 1.3]])
    atoms.calc = calculator
    energies = []
    for charge in (0.0, 1.0):
        atoms.info["total_charge"] = charge
        energies.append(atoms.get_potential_energy())
        (expected,) = evaluated([atoms], "-m", path, "--dtype", "f64")
        assert energies[-1] == expected["energy"]
    assert energies[0] != energies[1]


def test_committee(golden, evaluated, silicon):
    first, second = golden("sevennet/parity_nequip_connection.pth"), golden("sevennet/xplor_bias_mixed_connections.pth")
    one, two = Calculator(first), Calculator(second)
    common = [symbol for symbol in one.potential.elements if symbol in two.potential.elements]
    atoms = Atoms([common[0], common[-1]] * 2, [[0, 0, 0], [0, 0, 1.5], [1.4, 0.3, 0], [0.2, 1.7, 0.9]], cell=[5, 5, 5], pbc=True)
    both = Calculator([first, second])
    atoms.calc = both
    (expected,) = evaluated([atoms], "-m", first, "-m", second)
    assert atoms.get_potential_energy() == expected["energy"]
    assert both.results["energy_spread"] == expected["spread"]["energy"]
    assert both.results["forces_spread"].tolist() == expected["spread"]["forces"]
    assert both.get_property("forces_spread", atoms).shape == (4,)
    # Mean and standard deviation of a sample of two.
    members = [calculator.get_property("energy", atoms) for calculator in (one, two)]
    assert np.isclose(np.mean(members), atoms.get_potential_energy(), rtol=1e-14)
    assert np.isclose(np.std(members, ddof=1), both.results["energy_spread"], rtol=1e-12)
    # ASE is not irritated by results that it does not know.
    assert set(both.calculate_properties(atoms, ["energy", "forces"])) >= {"energy", "forces"}
    limit = both.results["forces_spread"].max()
    atoms.calc = Calculator([first, second], stop_above=0.9 * limit)
    with pytest.raises(RuntimeError, match="disagree by"):
        atoms.get_forces()
    atoms.calc = Calculator([first, second], stop_above=1.1 * limit)
    atoms.get_forces()


def test_what_ase_asks_of_a_calculator(silicon):
    calculator = Calculator()
    silicon.calc = calculator
    assert calculator.calculation_required(silicon, ["energy"])
    energy = silicon.get_potential_energy()
    assert not calculator.calculation_required(silicon, ["energy", "forces", "stress"])
    results = calculator.results
    silicon.get_forces()[:] = 0.0
    assert calculator.results is results
    assert silicon.get_forces().any()
    silicon.positions[0, 0] += 0.1
    assert calculator.calculation_required(silicon, ["energy"])
    assert silicon.get_potential_energy() != energy
    silicon.set_cell(silicon.cell * 1.01, scale_atoms=True)
    assert calculator.calculation_required(silicon, ["energy"])
    assert calculator.name == "tesseral"
    assert get_calculator_class("tesseral") is Calculator
    assert Calculator.implemented_properties == ["energy", "free_energy", "forces", "stress", "energies"]


def test_parameters(silicon):
    calculator = Calculator("sevennet-0", dtype=np.float64, skin=0.3)
    assert calculator.todict() == {"model": "sevennet-0", "dtype": "float64", "skin": 0.3}
    again = get_calculator_class("tesseral")(**calculator.todict())
    assert again.parameters == calculator.parameters
    silicon.calc = calculator
    double = silicon.get_potential_energy()
    assert calculator.set(dtype="float32", skin=None) == {"dtype": "float32", "skin": None}
    assert calculator.set(dtype="float32") == {}
    single = silicon.get_potential_energy()
    assert single != double
    assert abs(single - double) < 1e-4
    with pytest.raises(InputError, match="no dtype"):
        calculator.set(dtype="float16")
    with pytest.raises(FileNotFoundError):
        calculator.set(model="no-such-model")
    # What went wrong changed nothing.
    assert silicon.get_potential_energy() == single
    with pytest.raises(TypeError, match="nonsense"):
        calculator.set(nonsense=1)
    with pytest.raises(TypeError, match="nonsense"):
        Calculator(nonsense=1)


def test_files_and_databases(silicon, tmp_path):
    silicon.calc = Calculator(dtype="float64")
    energy, forces, stress = silicon.get_potential_energy(), silicon.get_forces(), silicon.get_stress()
    for name in ("si.traj", "si.json"):
        ase.io.write(tmp_path / name, silicon)
        back = ase.io.read(tmp_path / name)
        assert back.get_potential_energy() == energy
        assert (back.get_forces() == forces).all()
        assert (back.get_stress() == stress).all()
    back = ase.io.read(tmp_path / "si.traj")
    assert back.calc.name == "tesseral"
    assert back.calc.parameters == {"dtype": "float64"}
    with connect(tmp_path / "si.db") as database:
        database.write(silicon)
    row = connect(tmp_path / "si.db").get(1)
    assert row.calculator == "tesseral"
    assert row.calculator_parameters == {"dtype": "float64"}
    assert row.energy == energy
    ase.io.write(tmp_path / "si.extxyz", silicon)
    assert abs(ase.io.read(tmp_path / "si.extxyz").get_potential_energy() - energy) < 1e-7


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
def test_copies(silicon, how):
    silicon.calc = Calculator(dtype="float64", threads=2)
    forces = silicon.get_forces()
    copied = {"pickle": lambda a: pickle.loads(pickle.dumps(a)), "deepcopy": copy.deepcopy, "copy": copy.copy}[how](silicon.calc)
    assert copied is not silicon.calc
    assert copied.parameters == silicon.calc.parameters
    other = silicon.copy()
    other.calc = copied
    assert (other.get_forces() == forces).all()
    other.positions += 0.05 * np.random.default_rng(0).standard_normal(other.positions.shape)
    other.get_forces()
    assert (silicon.get_forces() == forces).all()
    # Weights are not in the pickle.
    assert len(pickle.dumps(Calculator())) < 2000


def test_mixing_with_other_calculators(silicon):
    lj = LennardJones(epsilon=1e-3, sigma=2.0, rc=5.0)
    mine = Calculator()
    silicon.calc = SumCalculator([mine, lj])
    assert np.isclose(silicon.get_potential_energy(), mine.get_potential_energy(silicon) + lj.get_potential_energy(silicon), rtol=1e-14)
    assert np.allclose(silicon.get_stress(), mine.get_stress(silicon) + lj.get_stress(silicon), rtol=0, atol=1e-15)
    BFGS(silicon, logfile=None).run(fmax=0.05, steps=20)


@pytest.mark.parametrize("optimiser", [BFGS, FIRE, LBFGS])
def test_optimisers(ethanol, optimiser):
    ethanol.calc = Calculator()
    assert optimiser(ethanol, logfile=None).run(fmax=0.03, steps=300)
    assert np.linalg.norm(ethanol.get_forces(), axis=1).max() <= 0.03


@pytest.mark.parametrize("cell_filter", [FrechetCellFilter, UnitCellFilter, StrainFilter])
def test_cell_filters(cell_filter):
    atoms = bulk("NaCl", "rocksalt", 6.0)
    atoms.calc = Calculator(dtype="float64")
    assert LBFGS(cell_filter(atoms), logfile=None).run(fmax=0.01, steps=100)
    assert np.abs(atoms.get_stress()).max() < 0.01
    # SevenNet-0's own constant, however it is reached.
    assert abs((4 * atoms.get_volume()) ** (1 / 3) - 5.69) < 0.05


def test_dynamics_conserves_energy(silicon):
    crystal = silicon * (2, 1, 1)
    crystal.calc = Calculator()
    thermalize_momenta(crystal, temperature_K=300, rng=np.random.default_rng(0))
    before = crystal.get_total_energy()
    VelocityVerlet(crystal, timestep=1 * units.fs).run(100)
    assert abs(crystal.get_total_energy() - before) < 1e-3 * len(crystal)


def npt(steps, seed=0):
    crystal = bulk("NaCl", "rocksalt", 5.7, cubic=True) * (2, 2, 2)
    crystal.calc = Calculator(skin=0.5)
    thermalize_momenta(crystal, temperature_K=300, rng=np.random.default_rng(seed))
    dynamics = IsotropicMTKNPT(
        crystal, timestep=2 * units.fs, temperature_K=300, pressure_au=0.0, tdamp=200 * units.fs, pdamp=1000 * units.fs
    )
    conserved = [dynamics.get_conserved_energy()] if hasattr(dynamics, "get_conserved_energy") else []
    volumes, temperatures = [], []
    for _ in dynamics.irun(steps):
        volumes.append(crystal.get_volume())
        temperatures.append(crystal.get_temperature())
        if conserved:
            conserved.append(dynamics.get_conserved_energy())
    return crystal, np.array(volumes), np.array(temperatures), np.array(conserved)


def test_npt():
    crystal, volumes, _, conserved = npt(30)
    assert len(volumes) == 31
    assert 0.9 < volumes[-1] / volumes[0] < 1.1
    assert np.isfinite(crystal.get_forces()).all()
    if len(conserved):
        assert np.ptp(conserved) < 2e-3 * len(crystal)


@pytest.mark.long
def test_npt_at_length(capsys):
    crystal, volumes, temperatures, conserved = npt(1000)
    with capsys.disabled():
        print(
            f"\n1000 steps of NPT, {len(crystal)} atoms: mean temperature of the second half {temperatures[500:].mean():.1f} K, "
            f"volume {volumes[500:].mean() / len(crystal):.3f} Å³/atom, conserved energy within {np.ptp(conserved[1:]) / len(crystal) * 1e3:.3f} meV/atom"
        )
    assert 200 < temperatures[500:].mean() < 400
    assert np.ptp(conserved[1:]) < 2e-3 * len(crystal)
