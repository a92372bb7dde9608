"""`ase.Atoms` and dictionaries as arrays, and arrays as `ase.Atoms`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ._errors import InputError

# Of the structure or its atoms that a model may ask for, such as `("total_charge", False)`: name, and whether it belongs to atoms.
Inputs = Iterable[tuple[str, bool]]


def is_structure(thing: Any) -> bool:
    """Whether this is one structure, rather than several."""
    return isinstance(thing, Mapping) or (hasattr(thing, "numbers") and hasattr(thing, "positions"))


def parts(structure: Any) -> tuple[Any, Any, Any, Any, Mapping, Mapping]:
    """Numbers, positions, cell, pbc, info and arrays of `ase.Atoms` or a dictionary."""
    if isinstance(structure, Mapping):
        missing = [key for key in ("numbers", "positions") if key not in structure]
        if missing:
            raise KeyError(f"a structure needs `numbers` and `positions`; there is no `{missing[0]}`")
        cell, pbc = structure.get("cell"), structure.get("pbc")
        info, arrays = structure.get("info") or {}, structure.get("arrays") or {}
        return structure["numbers"], structure["positions"], cell, pbc, info, arrays
    if not is_structure(structure):
        raise TypeError(f"{type(structure).__name__} is no structure: ase.Atoms, or a dictionary with numbers, positions, cell and pbc, is needed")
    return structure.numbers, structure.positions, structure.cell, structure.pbc, structure.info, structure.arrays


def fields(structure: Any, inputs: Inputs) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What a model asks for besides atoms and cell, as far as the structure has it."""
    *_, info, arrays = parts(structure)
    of_structure, of_atoms = {}, {}
    for name, per_atom in inputs:
        if per_atom:
            if name in arrays:
                of_atoms[name] = np.ascontiguousarray(arrays[name], dtype=np.float64)
            continue
        for key in (name, name.removeprefix("total_")):
            if info.get(key) is not None:
                of_structure[key] = float(info[key])
    return of_structure, of_atoms


def arrays(structure: Any, inputs: Inputs = (), more: Mapping[str, np.ndarray] | None = None) -> tuple:
    """What the extension module takes. Arrays of the right type are not copied."""
    numbers, positions, cell, pbc, *_ = parts(structure)
    try:
        numbers = np.ascontiguousarray(numbers, dtype=np.int64)
        positions = np.ascontiguousarray(positions, dtype=np.float64)
        if positions.size == 0:
            positions = positions.reshape(0, 3)
        cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
        if cell.shape == (3,):
            cell = np.diag(cell)
        pbc = np.asarray(False if pbc is None else pbc, dtype=bool)
        if pbc.shape != (3,):
            pbc = np.broadcast_to(pbc, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"these are no numbers, positions, cell and pbc of a structure: {error}") from error
    if numbers.ndim != 1 or positions.shape != (len(numbers), 3):
        message = f"numbers have the shape {numbers.shape} and positions {positions.shape}"
        raise InputError(message, "numbers are [N], positions [N, 3], in Å")
    if cell.shape != (3, 3):
        raise InputError(f"the cell has the shape {cell.shape}", "a cell is three vectors in rows, in Å")
    of_structure, of_atoms = fields(structure, inputs) if inputs else ({}, {})
    if more:
        of_atoms = {**of_atoms, **more}
    return numbers, positions, cell.tolist(), pbc.tolist(), of_structure, of_atoms


def named(index: int, error: Exception) -> Exception:
    """The error of one structure among many."""
    if isinstance(error, InputError):
        return InputError(f"structure {index}: {error.message}", error.hint, index)
    return type(error)(f"structure {index}: {error.args[0] if error.args else error}")


def many(structures: Iterable[Any], inputs: Inputs = ()) -> Iterator[tuple]:
    """The same of many, one after another; what is wrong with one names it."""
    for index, structure in enumerate(structures):
        try:
            converted = arrays(structure, inputs)
        except (KeyError, TypeError, ValueError) as error:
            raise named(index, error) from error
        yield converted


def with_results(atoms: Any, results: Mapping[str, Any] | None) -> Any:
    """Attaches results to Atoms: what ASE knows as a calculator, disagreement of a committee in `info` and `arrays`. The results are not copied twice."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = None
    if results is None:
        return atoms
    known = {key: results[key] for key in ("energy", "free_energy", "forces", "stress", "energies") if results.get(key) is not None}
    atoms.calc = SinglePointCalculator(atoms, **known)
    atoms.calc.name = "tesseral"
    if results.get("energy_spread") is not None:
        atoms.info["energy_spread"] = results["energy_spread"]
        atoms.arrays["forces_spread"] = results["forces_spread"]
    return atoms


def require_ase(what: str) -> None:
    """Says how to get ASE where it is missing."""
    try:
        import ase  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{what} needs ASE: pip install ase (or tesseral[ase])") from error
