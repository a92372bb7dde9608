"""Relaxation of `ase.Atoms`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from . import _core, _structures
from ._errors import InputError
from ._potential import resolve


def movable(atoms: Any, index: int | None = None) -> np.ndarray | None:
    """Which Cartesian coordinates `[N, 3]` the constraints of the atoms let move; None where all may."""
    if not getattr(atoms, "constraints", None):
        return None
    free = np.ones((len(atoms), 3))
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if kind not in ("FixAtoms", "FixCartesian"):
            message = f"a constraint {kind} cannot be kept"
            raise InputError(
                message if index is None else f"structure {index}: {message}",
                "FixAtoms and FixCartesian can; ignore_constraints=True relaxes without, or use an optimiser of ASE with tesseral.Calculator",
                index,
            )
        # What a constraint does to forces says what it holds.
        constraint.adjust_forces(atoms, free)
    return free != 0.0


def relax(
    atoms: Any,
    potential: Any = None,
    *,
    max_force: float = 0.01,
    max_stress: float = 0.1,
    steps: int = 500,
    method: Literal["auto", "lbfgs", "precon-lbfgs", "fire", "fire-2006"] = "auto",
    max_step: float = 0.2,
    cell: Literal["fixed", "full", "isotropic", "fixed-volume"] = "fixed",
    strain: str | Sequence[str] | None = None,
    pressure: float = 0.0,
    symmetry: float | None = None,
    ignore_constraints: bool = False,
) -> Any:
    """Relaxes structures to minima of the energy, or of the enthalpy where the cell moves. Many structures are evaluated together.

    Parameters
    ----------
    atoms
        `ase.Atoms`, or a list of them. They are not changed. FixAtoms and FixCartesian are kept; where the cell moves, what is held are fractional coordinates.
    potential
        A `Potential`, a `Calculator`, a model as `Potential` takes it, or None: that of the (first) atoms, or the built-in model where they have none.
    max_force
        Converged when no force is larger, eV/Å.
    max_stress
        Where the cell moves: converged when no component of the stress, less that of the pressure, is larger, GPa.
    steps
        Steps after which a structure is given up.
    method
        "auto": L-BFGS, in periodic structures preconditioned where the cell is fixed or there are more than 100 atoms.
    max_step
        How far an atom may move in one step, Å.
    cell
        How the cell may change: "fixed", "full", "isotropic" (volume alone) or "fixed-volume" (shape alone).
    strain
        Components of the strain that are allowed, such as "xx,yy,xy", which keeps the height of a slab; None, all.
    pressure
        Pressure on the cell, GPa.
    symmetry
        Keep the space group that is found within this tolerance, Å.
    ignore_constraints
        Let atoms move that constraints hold.

    Returns
    -------
    New Atoms (a list for a list) with energy, forces and stress attached, and in `info` `converged`, `relax_steps` and `relax_end` (how it ended, in words). That a
    structure did not converge is no error. Ctrl-C ends it after a step.
    """
    _structures.require_ase("tesseral.relax")
    if _structures.is_structure(atoms):
        arguments = {k: v for k, v in locals().items() if k not in ("atoms", "potential")}
        (relaxed,) = relax([atoms], potential, **arguments)
        return relaxed
    structures = list(atoms)
    if not structures:
        return []
    used = resolve(potential, structures[0])
    if isinstance(strain, str):
        strain = [name.strip() for name in strain.split(",")]
    arguments = {
        "max_force": max_force,
        "max_stress": max_stress,
        "steps": steps,
        "method": method,
        "max_step": max_step,
        "cell": cell,
        "strain": None if strain is None else list(strain),
        "pressure": pressure,
        "symmetry": symmetry,
    }
    held = [None if ignore_constraints else movable(s, i if len(structures) > 1 else None) for i, s in enumerate(structures)]
    jobs = list(zip(_structures.many(structures, used.inputs), held, strict=True))
    return [_relaxed(before, after) for before, after in zip(structures, _core.relax(used._field, jobs, arguments), strict=True)]


def _relaxed(before: Any, after: dict[str, Any]) -> Any:
    atoms = before.copy()
    atoms.set_cell(after["cell"])
    # Constraints hold against changes of positions, also those that were made here.
    atoms.set_positions(after["positions"], apply_constraint=False)
    atoms.info.update(converged=after["converged"], relax_steps=after["steps"], relax_end=after["end"])
    return _structures.with_results(atoms, after["results"])


__all__: Iterable[str] = ["relax"]
