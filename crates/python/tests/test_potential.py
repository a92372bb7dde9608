"""Many structures at once."""

import copy
import pickle
import threading

import numpy as np
import pytest
from ase.build import bulk, molecule
from conftest import rattled, structures

import tesseral
from tesseral import Calculator, Evaluation, InputError, Potential, TesseralError


def test_bits_of_the_command_line(expected):
    dtype, of_command_line = expected
    named = structures()
    for name, result in zip(named, Potential(dtype=dtype).evaluate(named.values()), strict=True):
        assert isinstance(result, Evaluation)
        assert result.energy == of_command_line[name]["energy"]
        assert result.forces.tolist() == of_command_line[name]["forces"]
        assert result.energies.tolist() == of_command_line[name]["atomic_energies"]
        if result.stress is None:
            assert of_command_line[name].get("stress") is None
        else:
            s = of_command_line[name]["stress"]
            assert result.stress.tolist() == [s[0][0], s[1][1], s[2][2], s[1][2], s[0][2], s[0][1]]


def test_shapes_and_types(silicon):
    (result,) = Potential().evaluate([silicon])
    assert result.forces.shape == (8, 3) and result.forces.dtype == np.float64
    assert result.stress.shape == (6,)
    assert result.energies.shape == (8,)
    assert np.isclose(result.energies.sum(), result.energy, rtol=1e-14)
    assert result.energy_spread is None
    assert result.forces.flags.owndata or result.forces.base is not None
    assert result.forces.flags.writeable


def test_one_structure_gives_one_result(silicon):
    result = Potential().evaluate(silicon)
    assert isinstance(result, Evaluation)
    assert Potential().evaluate([]) == []


def test_dictionaries_without_ase(silicon):
    potential = Potential()
    as_dictionary = {"numbers": silicon.numbers.tolist(), "positions": silicon.positions.tolist(), "cell": silicon.cell.tolist(), "pbc": True}
    assert potential.evaluate(as_dictionary).energy == potential.evaluate(silicon).energy
    in_single = {**as_dictionary, "positions": silicon.positions.astype(np.float32).astype(float), "cell": silicon.cell.lengths()}
    assert np.isfinite(potential.evaluate(in_single).energy)
    alone = potential.evaluate({"numbers": [8, 1, 1], "positions": molecule("H2O").positions})
    assert alone.stress is None
    # Neither order nor stride of the arrays matters.
    for positions in (np.asfortranarray(silicon.positions), np.repeat(silicon.positions, 2, axis=0)[::2]):
        assert potential.evaluate({**as_dictionary, "positions": positions}).energy == potential.evaluate(silicon).energy


def test_many_are_as_each_alone():
    many = [rattled(bulk("NaCl", "rocksalt", 5.5 + 0.01 * k), k) for k in range(40)] + [rattled(molecule("H2O"), k) for k in range(10)]
    potential = Potential(threads=3)
    calculator = Calculator(threads=1)
    for atoms, result in zip(many, potential.evaluate(many), strict=True):
        assert calculator.get_potential_energy(atoms) == result.energy
        assert (calculator.get_forces(atoms) == result.forces).all()


def test_as_many_as_an_iterator_gives():
    # More than are computed at a time, and all of them the same object, which moves.
    def moved(count):
        atoms = bulk("NaCl", "rocksalt", 5.64)
        for k in range(count):
            atoms.positions[0, 0] = 0.001 * k
            yield atoms

    potential, calculator = Potential(), Calculator()
    results = potential.evaluate(moved(600))
    assert len(results) == 600
    assert len({result.energy for result in results}) == 600
    for k, atoms in enumerate(moved(600)):
        if k % 100 == 0 or k in (255, 256, 599):
            assert calculator.get_potential_energy(atoms) == results[k].energy

    def torn():
        yield from moved(300)
        raise LookupError("no more frames")

    for errors in ("raise", "return"):
        with pytest.raises(LookupError, match="no more frames"):
            potential.evaluate(torn(), errors=errors)
    # What is wrong far behind names the place as well, and what is after it is not asked for.
    asked = []

    def wrong():
        for k, atoms in enumerate(moved(2000)):
            asked.append(k)
            if k == 301:
                atoms.numbers[0] = 300
            yield atoms

    with pytest.raises(InputError, match="^structure 301: atom 0 has the atomic number 300") as caught:
        potential.evaluate(wrong())
    assert caught.value.index == 301
    assert len(asked) < 2000
    assert potential.evaluate(next(moved(1))).energy == results[0].energy


def test_a_bad_one_among_many(silicon):
    collapsed = silicon.copy()
    collapsed.positions[3] = collapsed.positions[5]
    unknown = molecule("H2O")
    unknown.numbers[0] = 92 + 20
    many = [silicon, collapsed, silicon, unknown, {"numbers": [1]}, {"numbers": [300], "positions": [[0, 0, 0]]}, silicon]
    potential = Potential()
    with pytest.raises(InputError, match="^structure 1: atoms 3 and 5 are on the same spot") as caught:
        potential.evaluate(many[:3])
    assert caught.value.index == 1
    assert "duplicate atom" in caught.value.hint
    with pytest.raises(KeyError, match="structure 4: .*positions"):
        potential.evaluate(many)
    results = potential.evaluate(many, errors="return")
    assert results[0].energy == results[2].energy == potential.evaluate(silicon).energy
    assert isinstance(results[1], InputError) and results[1].index == 1
    assert isinstance(results[3], ValueError) and str(results[3]).startswith("structure 3: the model does not know element")
    assert isinstance(results[4], KeyError)
    assert isinstance(results[5], InputError) and results[5].index == 5
    assert str(results[5]).startswith("structure 5: atom 0 has the atomic number 300, which is no element")
    assert results[6].energy == results[0].energy
    with pytest.raises(InputError, match="errors="):
        potential.evaluate(many, errors="ignore")


def test_properties():
    potential = Potential(dtype="float64", threads=2)
    assert potential.names == ["SevenNet-0 (11Jul2024)"]
    assert len(potential.elements) == 89 and potential.elements[:3] == ["H", "He", "Li"]
    assert potential.numbers[:3] == [1, 2, 3]
    assert potential.cutoff == 5.0
    assert potential.threads == 2
    assert not potential.is_committee
    assert potential.inputs == []
    assert "f64 on cpu" in potential.identity and potential.fingerprints[0] in potential.identity
    assert repr(potential).startswith("<tesseral.Potential SevenNet-0")
    assert any(model.name == "sevennet-0" and model.status == "built in" for model in tesseral.models())
    assert Potential("sevennet-0").fingerprints == Potential().fingerprints


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), Potential.copy])
def test_copies(silicon, how):
    potential = Potential(dtype="float64")
    other = how(potential)
    assert other is not potential
    assert other.settings == potential.settings
    assert other.evaluate(silicon).energy == potential.evaluate(silicon).energy


def test_a_pickle_knows_its_weights(golden, tmp_path, monkeypatch, silicon):
    path = tmp_path / "model.pth"
    path.write_bytes(open(golden("sevennet/parity_nequip_connection.pth"), "rb").read())
    monkeypatch.chdir(tmp_path)
    potential = Potential("./model.pth")
    pickled = pickle.dumps(potential)
    monkeypatch.chdir("/")
    # Found from another folder.
    assert pickle.loads(pickled).fingerprints == potential.fingerprints
    path.write_bytes(open(golden("sevennet/xplor_bias_mixed_connections.pth"), "rb").read())
    with pytest.raises(TesseralError, match="not those that were pickled"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def test_threads_share_a_potential():
    """Python's threads compute at the same time, with one potential that none has used before, and with calculators of their own."""
    many = [rattled(bulk("NaCl", "rocksalt", 5.6, cubic=True), k) for k in range(8)] + [rattled(bulk("Si", cubic=True), k) for k in range(8)]
    for dtype in ("float32", "float64"):
        potential = Potential(dtype=dtype, threads=4)
        found = [None] * 8

        def work(k, found=found, potential=potential, dtype=dtype):
            batch = [result.energy for result in potential.evaluate(many)]
            calculator = Calculator(dtype=dtype, threads=4)
            found[k] = batch, [calculator.get_potential_energy(atoms) for atoms in many]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(one == found[0] for one in found)
        assert found[0][0] == found[0][1]


def test_one_calculator_in_many_threads(silicon):
    """It computes for one after another, and mixes nothing up."""
    field = Potential(threads=2)._field
    from tesseral._structures import arrays

    many = [rattled(silicon, k) for k in range(6)]
    expected = [field.calculate(arrays(atoms))["energy"] for atoms in many]
    found = {}

    def work(k):
        found[k] = [field.calculate(arrays(atoms))["energy"] for atoms in many]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(energies == expected for energies in found.values())


def test_the_lock_is_released():
    """Another thread of Python goes on while one computes."""
    crystal = bulk("Si", cubic=True) * (4, 4, 4)
    potential = Potential()
    done = threading.Event()
    counted = 0

    def work():
        for _ in range(3):
            potential.evaluate(crystal)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        counted += 1
    thread.join()
    assert counted > 20


def test_devices(silicon):
    with pytest.raises(InputError, match="`gpu` is no device"):
        Potential(device="gpu")
    with pytest.raises(TesseralError):
        Potential(device="cuda:77")
    assert Potential(device="auto").evaluate(silicon).energy == Potential().evaluate(silicon).energy


def test_the_differentiable_engine(silicon):
    compiled = Potential(dtype="float64").evaluate(silicon)
    differentiable = Potential(dtype="float64", engine="differentiable")
    assert abs(differentiable.evaluate(silicon).energy - compiled.energy) < 1e-6
    atoms = silicon.copy()
    atoms.calc = Calculator(dtype="float64", engine="differentiable")
    assert np.abs(atoms.get_forces() - compiled.forces).max() < 1e-6
