"""Potentials: models ready to compute."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from . import _core, _structures
from ._errors import InputError, TesseralError

Model = None | str | os.PathLike
DTYPES = {"float32": "float32", "f32": "float32", "single": "float32", "float64": "float64", "f64": "float64", "double": "float64"}


def place(model: Model) -> str | None:
    """A model as it is found from any folder and any process: names as they are, paths in full."""
    if model is None:
        return None
    is_path = isinstance(model, os.PathLike)
    model = os.fspath(model)
    if not isinstance(model, str):
        raise TypeError(f"a model is a name, a path or None, not {type(model).__name__}")
    if is_path or _core.looks_like_path(model):
        return os.path.abspath(os.path.expanduser(model))
    return model


def places(model: Model | Sequence[Model]) -> list[str | None]:
    """All members of a committee, or one model."""
    if isinstance(model, (list, tuple)):
        return [place(member) for member in model]
    return [place(model)]


def dtype_of(dtype: Any) -> str:
    """`float32` or `float64`, from a name, a type or a numpy dtype."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", str(dtype))
    if name not in DTYPES:
        raise InputError(f"`{name}` is no dtype", '"float32" and "float64" are')
    return DTYPES[name]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of one structure of N atoms."""

    energy: float
    """Energy, eV."""
    forces: np.ndarray
    """Forces `[N, 3]`, eV/Å."""
    stress: np.ndarray | None
    """Stress `[6]`, eV/Å³, positive when tensile, in the order xx, yy, zz, yz, xz, xy; None unless the structure is periodic in all three directions."""
    energies: np.ndarray
    """Energies of atoms `[N]`, eV; they sum to the energy."""
    energy_spread: float | None = None
    """Standard deviation of the energy over the models of a committee, eV."""
    forces_spread: np.ndarray | None = None
    """Standard deviation of the force on each atom over the models of a committee `[N]`, eV/Å."""

    @classmethod
    def of(cls, results: dict[str, Any]) -> Evaluation:
        return cls(
            results["energy"],
            results["forces"],
            results.get("stress"),
            results["energies"],
            results.get("energy_spread"),
            results.get("forces_spread"),
        )


class Potential:
    """One model, or a committee of several, for one precision and device.

    Parameters
    ----------
    model
        None or "sevennet-0" for the built-in model, another name of `tesseral.models()` that is installed, a path to an artifact, or a checkpoint of MACE, SevenNet or
        NequIP, which is imported in memory. A list of them is a committee: its means count, its standard deviations are reported.
    device
        "cpu", "cuda", "cuda:1", "cuda:0,1", "auto", or "emulated" (the CUDA kernels on the CPU, to check them). CUDA needs a build with the feature `cuda`.
    dtype
        "float32" or "float64": the precision of the network. Geometry and sums are in double precision always.
    head
        Head of a MACE model or modality of a SevenNet model, needed where there are several.
    skin
        How far beyond the cutoff neighbours are listed where atoms move, Å. None is 0 on the CPU, where every result then has the bits of `tesseral evaluate`, and 0.5 on
        devices. On the CPU a skin of 0.5 saves some per cent of the time; results then depend in their last bits on when neighbours were listed.
    stop_above
        Make it an error where the models of a committee disagree about a force by more than this, eV/Å.
    threads
        Threads that compute. None is the environment variable TESSERAL_THREADS, or RAYON_NUM_THREADS, or one for each core that the process may use. All that ask for the
        same number share the same threads. Worker processes should be given their share: `threads=1` where there are as many as cores.
    engine, exact_radial, memory
        As on the command line: "compiled" or "differentiable"; evaluate radial networks on every edge; bytes that structures may take.

    Potentials can be pickled and copied. A pickle holds names, paths, settings and a fingerprint of the weights, no weights: the model has to be found where it is
    unpickled. They can be used in forked and spawned processes (with CUDA, in spawned ones), and by several threads at the same time.
    """

    def __init__(
        self,
        model: Model | Sequence[Model] = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        head: str | None = None,
        skin: float | None = None,
        stop_above: float | None = None,
        threads: int | None = None,
        engine: Literal["compiled", "differentiable"] = "compiled",
        exact_radial: bool = False,
        memory: int | None = None,
    ) -> None:
        settings = {
            "models": places(model),
            "device": str(device),
            "dtype": dtype_of(dtype),
            "head": head,
            "engine": engine,
            "exact_radial": exact_radial,
            "memory": memory,
            "skin": skin,
            "stop_above": stop_above,
            "threads": threads,
            "fingerprints": None,
        }
        self._field = _core.Field(settings)

    @overload
    def evaluate(self, structures: Iterable[Any], *, errors: Literal["raise"] = ...) -> list[Evaluation]: ...
    @overload
    def evaluate(self, structures: Iterable[Any], *, errors: Literal["return"]) -> list[Evaluation | TesseralError]: ...

    def evaluate(self, structures, *, errors="raise"):
        """Energies, forces and stresses of many structures, all at once.

        Parameters
        ----------
        structures
            `ase.Atoms` or dictionaries with `numbers` [N], `positions` [N, 3] in Å, and, where periodic, `cell` [3, 3] in Å and `pbc`: a list of them, or an iterator that
            gives one after another while others are computed. What a model asks for besides (`total_charge`, …) is found in `info`. One structure alone gives one result
            instead of a list.
        errors
            "raise": a structure that cannot be evaluated raises its error, which has its `index`. "return": the error is in the place of its result.

        Returns
        -------
        A list of `Evaluation`, in the order of the structures.
        """
        if errors not in ("raise", "return"):
            raise InputError(f"errors={errors!r}", '"raise" and "return" are possible')
        if _structures.is_structure(structures):
            (result,) = self.evaluate([structures], errors=errors)
            return result
        inputs = self._field.inputs
        if errors == "raise":
            return self._field.evaluate(_structures.many(structures, inputs), True, Evaluation.of)
        # Those that are no structures at all have their errors without being asked about.
        outcomes: list[Any] = []

        def good() -> Iterator[tuple]:
            for index, structure in enumerate(structures):
                try:
                    converted = _structures.arrays(structure, inputs)
                except (KeyError, TypeError, ValueError) as error:
                    outcomes.append(_structures.named(index, error))
                    continue
                outcomes.append(None)
                yield converted

        results = self._field.evaluate(good(), False, Evaluation.of)
        places = [index for index, outcome in enumerate(outcomes) if outcome is None]
        for index, result in zip(places, results, strict=True):
            if isinstance(result, TesseralError):
                result.index = index
                result.message = result.message.partition(": ")[2]
                result.message = f"structure {index}: {result.message}"
                outcomes[index] = result
            else:
                outcomes[index] = result
        return outcomes

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return self._field.names

    @property
    def identity(self) -> str:
        """Names and weights of the models, precision and device in words, as runs remember them."""
        return self._field.identity

    @property
    def fingerprints(self) -> list[str]:
        """The beginning of the SHA-256 of each model's tensors."""
        return self._field.settings["fingerprints"]

    @property
    def licences(self) -> list[str | None]:
        """Licences of the models, where they say."""
        return self._field.licences

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers that all models know."""
        return self._field.numbers

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements that all models know."""
        return self._field.elements

    @property
    def cutoff(self) -> float:
        """The largest cutoff of the models, Å."""
        return self._field.cutoff

    @property
    def heads(self) -> list[str]:
        """Heads or modalities of the first model."""
        return self._field.heads

    @property
    def inputs(self) -> list[tuple[str, bool]]:
        """What the models ask for besides atoms and cell (`total_charge`, …): names, and whether it belongs to atoms."""
        return self._field.inputs

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self._field.num_threads

    @property
    def is_committee(self) -> bool:
        """Whether there are several models."""
        return len(self._field.settings["models"]) > 1

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that this was made with."""
        return self._field.settings

    def copy(self) -> Potential:
        """The same models for another structure that moves: nothing is loaded again."""
        other = object.__new__(type(self))
        other._field = self._field.copy()
        return other

    def __repr__(self) -> str:
        return f"<tesseral.Potential {self.identity}>"


def resolve(potential: Any, atoms: Any = None) -> Potential:
    """What a function is given as its potential: a `Potential`, a calculator, a model, or nothing, which means that of the atoms or the built-in one."""
    if isinstance(potential, Potential):
        return potential
    if potential is None and atoms is not None:
        calculator = getattr(atoms, "calc", None)
        if calculator is not None and not isinstance(getattr(calculator, "potential", None), Potential):
            from ase.calculators.singlepoint import SinglePointCalculator

            if not isinstance(calculator, SinglePointCalculator):
                message = f"the atoms have a calculator that is not of tesseral ({type(calculator).__name__})"
                raise InputError(message, "name the potential: potential=None means that of the atoms")
            calculator = None
        if calculator is not None:
            return calculator.potential
    of_calculator = getattr(potential, "potential", None)
    if isinstance(of_calculator, Potential):
        return of_calculator
    return Potential(potential)
