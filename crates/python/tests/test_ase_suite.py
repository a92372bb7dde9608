"""ASE's own tests of calculators, as far as they are about any calculator: those that ship with ASE, run with ours."""

import os

import pytest

from tesseral import Calculator

traj = pytest.importorskip("ase.test.calculator.test_traj")
ch4 = pytest.importorskip("ase.test.calculator.test_ch4_energy")


class Factory:
    """What those tests make calculators with."""

    name = "tesseral"

    def calc(self, **parameters):
        return Calculator(**parameters)


@pytest.fixture
def testdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_h2_traj(testdir):
    traj.test_h2_traj(Factory(), None)
    assert os.path.exists("h2.traj")


def test_ch4_reaction(testdir):
    # The energy of a reaction, against that of DFT within 0.3 eV.
    ch4.test_ch4_reaction(Factory())
