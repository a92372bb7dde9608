"""Training from Python."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from conftest import rattled

import tesseral
from tesseral import Calculator, InputError, Potential, TesseralError



@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Copper by EMT: energies, forces and stresses that cost nothing."""
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    frames = []
    for seed in range(24):
        atoms = rattled(bulk("Cu", cubic=True), seed, 0.08)
        atoms.set_cell(atoms.cell * (1 + 0.01 * (seed % 5 - 2)), scale_atoms=True)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


def configuration(data, folder):
    return {
        "data": {"train": [str(data)], "valid_fraction": 0.2},
        "model": {
            "family": "mace",
            "r_max": 3.5,
            "num_channels": 4,
            "max_L": 1,
            "max_ell": 2,
            "correlation": 2,
            "radial_MLP": [8],
        },
        "optimizer": {"learning_rate": 0.02},
        "training": {"max_epochs": 3, "batch": {"frames": 4}, "seed": 3},
        "output": {"directory": folder, "name": "copper"},
    }


def toml(value, name=""):
    """A configuration as a file."""
    plain = {k: v for k, v in value.items() if not isinstance(v, dict) or name}
    text = f"[{name}]\n" if name else ""
    for key, item in plain.items():
        if isinstance(item, dict):
            item = "{ " + ", ".join(f"{k} = {v}" for k, v in item.items()) + " }"
        elif isinstance(item, (str, os.PathLike)):
            item = f'"{item}"'
        elif isinstance(item, list):
            item = str(item).replace("'", '"')
        text += f"{key} = {item}\n"
    return text + "".join(toml(v, k) for k, v in value.items() if isinstance(v, dict) and not name)


def test_train(data, tmp_path, caplog, binary):
    with caplog.at_level(logging.INFO, logger="tesseral"):
        training = tesseral.train(configuration(data, tmp_path / "run"), threads=2)
    assert training.ending == "finished"
    assert training.model == tmp_path / "run" / "copper.safetensors" or training.model.exists()
    assert training.report.exists()
    assert set(training.errors) >= {"train", "valid"}
    assert training.errors["valid"]["forces"]["rmse"] > 0.0
    assert any("epoch 3" in record.getMessage() for record in caplog.records if record.name == "tesseral.train")
    atoms = ase.io.read(data, "0")
    calculator = Calculator(training.model)
    assert np.isfinite(calculator.get_potential_energy(atoms))
    # The same configuration as a file, from the command line: the same weights.
    (tmp_path / "train.toml").write_text(toml(configuration(data, "other")))
    subprocess.run([binary, "--threads", "2", "train", "train.toml"], cwd=tmp_path, check=True, capture_output=True)
    (other,) = (tmp_path / "other").glob("copper*.safetensors")
    assert Calculator(other).potential.fingerprints == calculator.potential.fingerprints
    # And as a file, from Python, with another seed.
    third = tesseral.train(tmp_path / "train.toml", set={"training.seed": 4, "training.max_epochs": 1}, output=tmp_path / "third", threads=2)
    assert Calculator(third.model).potential.fingerprints != calculator.potential.fingerprints
    # Fine-tuning of what was trained.
    tuned = tesseral.finetune(
        training.model, data, output=tmp_path / "tuned", set=["training.max_epochs=1", "data.valid_fraction=0.2"], threads=2
    )
    assert tuned.model.exists()


def test_ctrl_c_and_on(data, tmp_path):
    code = f"""
        import logging, tesseral, test_train
        from pathlib import Path
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        configuration = test_train.configuration({str(data)!r}, Path({str(tmp_path / "run")!r}))
        configuration["training"]["max_epochs"] = 100000
        try:
            tesseral.train(configuration, threads=1)
        except KeyboardInterrupt:
            print("interrupted")
    """
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        while "epoch 2" not in (line := process.stderr.readline()):
            assert line, "it ended by itself"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "interrupted\n"
    configured = configuration(data, tmp_path / "run")
    configured["training"]["max_epochs"] = 100000
    resumed = tesseral.train(configured, resume=True, set={"training.max_time": 0.001}, threads=1)
    assert resumed.ending == "time"


def test_a_child_of_a_process_that_has_trained(data, tmp_path):
    """It evaluates, and says that it cannot train."""
    model = tesseral.train(configuration(data, tmp_path / "parent"), set={"training.max_epochs": 1}, threads=2).model
    atoms = ase.io.read(data, "0")
    potential = Potential(model, threads=2)
    expected = potential.evaluate(atoms).energy
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if potential.evaluate(atoms).energy == expected:
                tesseral.train(configuration(data, tmp_path / "child"), threads=2)
        except TesseralError as error:
            code = 0 if "forked" in str(error) and "spawn" in error.hint else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_wrong(data, tmp_path):
    configured = configuration(data, tmp_path / "run")
    with pytest.raises(InputError, match="there is no key `training.max_epoch`"):
        tesseral.train(configured, set={"training.max_epoch": 3})
    with pytest.raises(InputError, match="`training.seed` is None"):
        tesseral.train({**configured, "training": {"seed": None}})
    with pytest.raises(TypeError, match="a configuration holds"):
        tesseral.train({**configured, "training": {"seed": object()}})
    with pytest.raises(InputError, match="data.train"):
        tesseral.train({"model": {"family": "mace"}})
    with pytest.raises(FileNotFoundError):
        tesseral.finetune("no-such-model", data)
    with pytest.raises(TesseralError):
        tesseral.train(tmp_path / "nothing.toml")
    with pytest.raises(TesseralError):
        tesseral.train({**configured, "data": {"train": [str(tmp_path / "nothing.xyz")]}})
    assert "[training]" in tesseral.template()
