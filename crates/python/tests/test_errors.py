"""Wrong use: exceptions of the right type, which say what and what to do."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from tesseral import Calculator, InputError, ModelNotFoundError, Potential, TesseralError


def test_an_element_that_the_model_does_not_know():
    atoms = molecule("H2O")
    atoms.numbers[0] = 100
    atoms.calc = Calculator()
    with pytest.raises(InputError, match="does not know element Fm \\(atom 0\\)") as caught:
        atoms.get_potential_energy()
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, TesseralError)
    # A calculator is good for the next structure.
    assert np.isfinite(atoms.calc.get_potential_energy(molecule("H2O")))


@pytest.mark.parametrize("number", [0, 119, 300, -1])
def test_numbers_that_are_no_elements(number):
    with pytest.raises(InputError, match="atom 1|element X"):
        Potential().evaluate({"numbers": [1, number], "positions": [[0, 0, 0], [0, 0, 1]]})


def test_no_atoms():
    with pytest.raises(InputError, match="no atoms"):
        Atoms(calculator=Calculator()).get_potential_energy()
    with pytest.raises(InputError, match="no atoms"):
        Potential().evaluate([Atoms()])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_positions_that_are_no_numbers(value):
    atoms = bulk("Si", cubic=True)
    atoms.positions[5, 1] = value
    atoms.calc = Calculator()
    with pytest.raises(InputError, match="atom 5") as caught:
        atoms.get_forces()
    assert caught.value.hint


def test_cells_that_span_nothing():
    atoms = bulk("Si")
    atoms.cell[2] = 0.0
    with pytest.raises(InputError, match="span no volume"):
        Potential().evaluate(atoms)
    atoms = bulk("Si")
    atoms.cell[0, 0] = np.nan
    with pytest.raises(InputError, match="lattice vector 0"):
        Potential().evaluate(atoms)


def test_atoms_on_one_spot():
    with pytest.raises(InputError, match="atoms 0 and 1 are on the same spot"):
        Potential().evaluate(Atoms("HH", [[0, 0, 0], [0, 0, 0]]))


def test_shapes():
    potential = Potential()
    with pytest.raises(InputError, match="shape"):
        potential.evaluate({"numbers": [1, 1], "positions": [[0.0, 0.0, 0.0]]})
    with pytest.raises(InputError, match="cell"):
        potential.evaluate({"numbers": [1], "positions": [[0.0, 0.0, 0.0]], "cell": [[1.0, 2.0], [3.0, 4.0]]})
    with pytest.raises(InputError):
        potential.evaluate({"numbers": ["H"], "positions": [[0.0, 0.0, 0.0]]})
    with pytest.raises(TypeError, match="no structure"):
        potential.evaluate([1, 2])


def test_models_that_there_are_not(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no model is called `sevenet-0`") as caught:
        Calculator("sevenet-0")
    assert "sevennet-0" in caught.value.hint
    assert isinstance(caught.value, FileNotFoundError) and isinstance(caught.value, TesseralError)
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        Calculator(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        Calculator(str(tmp_path) + "/")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(TesseralError, match="not a readable safetensors file"):
        Calculator(broken)
    strange = tmp_path / "strange.model"
    strange.write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(TesseralError):
        Calculator(strange)
    with pytest.raises(TypeError):
        Calculator(3)


def test_settings():
    for arguments, what in [
        ({"device": "tpu"}, "no device"),
        ({"dtype": "int8"}, "no dtype"),
        ({"dtype": 64}, "no dtype"),
        ({"engine": "steam"}, "no engine"),
        ({"skin": -1.0}, "skin"),
        ({"skin": float("nan")}, "skin"),
        ({"stop_above": 0.1}, "committee"),
        ({"head": "PBE"}, "no head"),
        ({"engine": "differentiable", "exact_radial": True}, "exact_radial"),
        ({"model": []}, "empty list"),
        ({"model": [None, None], "stop_above": -1.0}, "positive"),
    ]:
        with pytest.raises(InputError, match=what):
            Potential(**arguments)
    with pytest.raises((OverflowError, TypeError)):
        Potential(threads=-1)


def test_too_little_memory():
    with pytest.raises(TesseralError, match="memory") as caught:
        Potential(memory=1000).evaluate(bulk("Si") * (4, 4, 4))
    # In the words of Python, not of the command line.
    assert "--" not in caught.value.hint


def test_cuda_without_a_gpu_or_without_the_feature():
    try:
        Potential(device="cuda")
    except TesseralError as error:
        assert error.message
    else:
        pytest.skip("skipped because there is a GPU")
