"""Fork, spawn, Ctrl-C, panics, warnings: what a process may do."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from ase.build import bulk
from conftest import rattled

import tesseral
from tesseral import Calculator, InputError, Potential, TesseralError, _core

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def energy_of(atoms):
    return atoms.get_potential_energy()


def energies(potential_and_structures):
    potential, many = potential_and_structures
    return [result.energy for result in potential.evaluate(many)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("used_before", [True, False])
def test_worker_processes(method, used_before):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"skipped because this system has no {method}")
    many = [rattled(bulk("NaCl", "rocksalt", 5.6, cubic=True), k) for k in range(4)]
    calculator, potential = Calculator(threads=2), Potential(threads=2)
    expected = [result.energy for result in Potential(threads=2).evaluate(many)]
    for atoms in many:
        atoms.calc = calculator
        if used_before:
            # With threads that a forked child does not have.
            atoms.get_potential_energy()
    if used_before:
        assert energies((potential, many)) == expected
    for atoms in many:
        atoms.calc.reset()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(energy_of, many).get(timeout=120) == expected
        assert pool.map_async(energies, [(potential, many)] * 2).get(timeout=120) == [expected] * 2
    # The parent is as it was.
    assert energies((potential, many)) == expected


def test_fork_while_another_thread_computes(silicon):
    """What that thread had locked is locked in no child."""
    code = """
        import os, threading
        from ase.build import bulk
        from tesseral import Calculator, Potential
        potential = Potential(threads=2)
        crystal = bulk("Si", cubic=True) * (2, 2, 2)
        calculator = Calculator(threads=2)
        expected = calculator.get_potential_energy(crystal)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                potential.evaluate([crystal] * 4)
                crystal.rattle(0.0)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(12):
            child = os.fork()
            if child == 0:
                mine = Calculator(threads=2)
                os._exit(0 if potential.evaluate(crystal).energy == expected == mine.get_potential_energy(crystal) else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads: thread.join()
        print("done")
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240)
    assert done.stdout == "done\n", done.stderr


def test_children_of_children(silicon):
    potential = Potential(threads=2)
    expected = potential.evaluate(silicon).energy
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if potential.evaluate(silicon).energy == expected:
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if potential.evaluate(silicon).energy == expected else 1)
                code = os.waitpid(grandchild, 0)[1]
        finally:
            os._exit(min(code, 1))
    assert os.waitpid(child, 0)[1] == 0


def test_executors(silicon):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        silicon.calc = Calculator(threads=1)
        again = list(executor.map(energy_of, [silicon, silicon]))
    assert again == [silicon.get_potential_energy()] * 2


@pytest.mark.parametrize(
    "code",
    [
        "Potential(threads=2).evaluate([crystal * (3, 3, 3)] * 2000)",
        "tesseral.md(crystal, steps=10**9, time_step=0.001)",
        "tesseral.relax([crystal * (2, 2, 2)] * 200, max_force=1e-12, steps=10**6)",
    ],
    ids=["evaluate", "md", "relax"],
)
def test_ctrl_c(code):
    program = f"""
        import sys, tesseral
        from ase.build import bulk
        from tesseral import Potential
        crystal = bulk("Si", cubic=True)
        crystal.rattle(0.05)
        Potential(threads=2).evaluate(crystal)
        print("begun", flush=True)
        try:
            {code}
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert out == "interrupted\n"
    assert process.returncode == 0


def test_a_panic_is_an_exception(silicon, capfd):
    with pytest.raises(TesseralError, match="internal error: something is wrong") as caught:
        _core._panic("something is wrong")
    assert "report" in caught.value.hint
    assert isinstance(caught.value, Exception)
    # And everything works as before.
    assert Potential(threads=1).evaluate(silicon).energy < 0.0


def test_messages_go_to_logging(silicon, caplog):
    with caplog.at_level(logging.INFO, logger="tesseral"):
        Potential(device="auto").evaluate(silicon)
    records = [record for record in caplog.records if record.name.startswith("tesseral.infer")]
    assert records and "CPU" in records[0].getMessage()


def test_numbers_of_threads(monkeypatch):
    monkeypatch.delenv("TESSERAL_THREADS", raising=False)
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    assert Potential().threads == 3
    monkeypatch.setenv("TESSERAL_THREADS", "2")
    assert Potential().threads == 2
    assert Potential(threads=4).threads == 4
    monkeypatch.setenv("TESSERAL_THREADS", "many")
    with pytest.raises(InputError, match="TESSERAL_THREADS is many"):
        Potential()
    monkeypatch.delenv("TESSERAL_THREADS")
    monkeypatch.delenv("RAYON_NUM_THREADS")
    assert Potential().threads == len(os.sched_getaffinity(0)) or Potential().threads <= os.cpu_count()
    with pytest.raises(InputError, match="0 threads"):
        Potential(threads=0)


def test_threads_are_shared(silicon):
    """Ten potentials and calculators with as many threads as asked for, and no more."""
    code = """
        import os
        from ase.build import bulk
        from tesseral import Calculator, Potential
        crystal = bulk("Si", cubic=True)
        for k in range(5):
            Potential(threads=3).evaluate([crystal] * 20)
            Calculator(threads=3).get_potential_energy(crystal)
        print(sum(open(f"/proc/self/task/{t}/comm").read().startswith("tesseral") for t in os.listdir("/proc/self/task")))
    """
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("skipped because threads are counted in /proc")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_exceptions_survive_pickling():
    import pickle

    for kind in (TesseralError, InputError, tesseral.ModelNotFoundError):
        error = pickle.loads(pickle.dumps(kind("what", "do this", 3)))
        assert type(error) is kind
        assert (error.message, error.hint, error.index) == ("what", "do this", 3)
        assert str(error) == "what\nhint: do this"
