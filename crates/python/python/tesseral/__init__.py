"""Equivariant interatomic potentials in Rust, from Python.

>>> from ase.build import bulk
>>> from tesseral import Calculator
>>> atoms = bulk("Si")
>>> atoms.calc = Calculator()          # the built-in SevenNet-0; a name, an artifact or a checkpoint of MACE, SevenNet or NequIP
>>> energy = atoms.get_potential_energy()

=====================  =====================================================================================================
`Calculator`           an ASE calculator
`Potential`            the same models for many structures at once, with or without ASE
`relax`, `md`          relaxation and molecular dynamics of `ase.Atoms`
`train`, `finetune`    from reference calculations to a potential
`models`               the known pretrained models
=====================  =====================================================================================================

Units are those of ASE: Å, eV, eV/Å, eV/Å³; stress is positive when tensile, in the order xx, yy, zz, yz, xz, xy. `relax` and `md` have the arguments of the
commands `tesseral relax` and `tesseral md`, in the same units.

Warnings of the library go to `logging.getLogger("tesseral")`, and notes with the level INFO.
"""

from __future__ import annotations

import importlib

from ._core import __version__
from ._errors import InputError, ModelNotFoundError, TesseralError

# Known to type checkers as true. Importing `typing` would take longer than all of this package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._ase import Calculator
    from ._md import Trajectory, md
    from ._models import KnownModel, models
    from ._potential import Evaluation, Potential
    from ._relax import relax
    from ._train import Training, finetune, template, train

# Loaded when they are first asked for: `import tesseral` needs neither numpy nor ASE, and takes milliseconds.
_PLACES = {
    "Calculator": "_ase",
    "Evaluation": "_potential",
    "KnownModel": "_models",
    "Potential": "_potential",
    "Trajectory": "_md",
    "Training": "_train",
    "finetune": "_train",
    "md": "_md",
    "models": "_models",
    "relax": "_relax",
    "template": "_train",
    "train": "_train",
}

__all__ = [
    "Calculator",
    "Evaluation",
    "InputError",
    "KnownModel",
    "ModelNotFoundError",
    "Potential",
    "TesseralError",
    "Training",
    "Trajectory",
    "__version__",
    "finetune",
    "md",
    "models",
    "relax",
    "template",
    "train",
]


def __getattr__(name: str):
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{place}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
