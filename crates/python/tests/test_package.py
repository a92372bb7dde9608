"""The package itself: what importing takes, what it needs, what it says of itself."""

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tesseral


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_neither_numpy_nor_ase_nor_torch():
    loaded = run("import sys, tesseral; print(sorted({name.partition('.')[0] for name in sys.modules} & {'numpy', 'ase', 'scipy', 'torch'}))")
    assert loaded == "[]"


def test_evaluating_needs_no_ase():
    code = """
        import sys
        sys.modules["ase"] = None
        import tesseral
        water = {"numbers": [8, 1, 1], "positions": [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]}
        print(tesseral.Potential().evaluate(water).forces.shape)
        for name in ("Calculator",):
            try:
                getattr(tesseral, name)
            except ImportError as error:
                print(error)
        try:
            tesseral.relax(None)
        except ImportError as error:
            print(error)
    """
    shape, calculator, relax = run(code).splitlines()
    assert shape == "(3, 3)"
    assert calculator == "tesseral.Calculator needs ASE: pip install ase (or tesseral[ase])"
    assert relax.startswith("tesseral.relax needs ASE")


def test_names():
    assert set(tesseral.__all__) <= set(dir(tesseral))
    for name in tesseral.__all__:
        thing = getattr(tesseral, name)
        assert name == "__version__" or inspect.getdoc(thing), name
    with pytest.raises(AttributeError, match="nothing"):
        tesseral.nothing
    assert tesseral.__version__ == run("from tesseral import __version__; print(__version__)")
    # Typed for checkers.
    folder = Path(tesseral.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_core.pyi").exists()


def test_stubs_name_what_there_is():
    import ast

    from tesseral import _core

    tree = ast.parse((Path(tesseral.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    (field,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    members = {node.name for node in field.body if isinstance(node, ast.FunctionDef)} - {"__new__"}
    of_module = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("__") and name != "Field"}
    assert functions == of_module
    assert members == {name for name in dir(_core.Field) if not name.startswith("_")}


def test_one_library_for_all_pythons():
    from tesseral import _core

    assert _core.__file__.endswith((".abi3.so", ".pyd"))
