"""The ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _structures

_structures.require_ase("tesseral.Calculator")

from ase.calculators.calculator import Calculator as AseCalculator  # noqa: E402
from ase.calculators.calculator import all_changes, external_calculators, register_calculator_class  # noqa: E402
from ase.outputs import Properties, all_outputs  # noqa: E402

from ._potential import Model, Potential, dtype_of, places  # noqa: E402


class Calculator(AseCalculator):
    """An ASE calculator: energy, free_energy, forces, stress (of what is periodic in three directions) and energies of atoms.

    >>> atoms.calc = Calculator("sevennet-0", dtype="float64")

    The arguments are those of `tesseral.Potential`, which `potential` gives. A list of models is a committee: results then have `energy_spread` (eV) and `forces_spread`
    ([N], eV/Å) as well, and `stop_above` ends a run where the models disagree.

    Every result has the bits of `tesseral evaluate` for the same dtype, unless `skin` is given (then up to the order of summation).

    A calculator can be pickled, copied, sent to other processes and used by one thread after another. `todict()` holds what it was made with, which
    `Calculator(**parameters)` and ASE's databases and trajectories take.
    """

    name = "tesseral"
    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies"]
    default_parameters: dict[str, Any] = {
        "model": None,
        "device": "cpu",
        "dtype": "float32",
        "head": None,
        "skin": None,
        "stop_above": None,
        "threads": None,
        "engine": "compiled",
        "exact_radial": False,
        "memory": None,
    }

    def __init__(self, model: Model | Sequence[Model] = None, *, atoms: Any = None, **parameters: Any) -> None:
        self._potential: Potential | None = None
        unknown = sorted(set(parameters) - set(self.default_parameters))
        if unknown:
            raise TypeError(f"Calculator() got an unexpected keyword argument {unknown[0]!r}")
        super().__init__(atoms=atoms, model=model, **parameters)
        self._make()

    def _make(self) -> None:
        self._potential = Potential(**self.parameters)
        self._inputs = self._potential.inputs
        if self._potential.is_committee:
            self.implemented_properties = [*type(self).implemented_properties, "energy_spread", "forces_spread"]
        else:
            self.implemented_properties = list(type(self).implemented_properties)

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Changes parameters; what was computed is forgotten where they differ."""
        unknown = sorted(set(parameters) - set(self.default_parameters))
        if unknown:
            raise TypeError(f"there is no parameter {unknown[0]!r}")
        if "model" in parameters:
            models = places(parameters["model"])
            parameters["model"] = models if len(models) > 1 else models[0]
        if "dtype" in parameters:
            parameters["dtype"] = dtype_of(parameters["dtype"])
        before = dict(self.parameters)
        changed = super().set(**parameters)
        if changed and self._potential is not None:
            self.reset()
            try:
                self._make()
            except Exception:
                self.parameters.update(before)
                raise
        return changed

    @property
    def potential(self) -> Potential:
        """The models, for batches and for `tesseral.relax` and `tesseral.md`."""
        assert self._potential is not None
        return self._potential

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Computes everything, whatever is asked for: forces and stress come with the energy."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        self.results = self.potential._field.calculate(_structures.arrays(self.atoms, self._inputs))

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; charge, spin and whatever else the model asks for included."""
        changes = super().check_state(atoms, tol=tol)
        if not changes and self._inputs:
            of_structure, of_atoms = _structures.fields(atoms, self._inputs)
            before, before_of_atoms = _structures.fields(self.atoms, self._inputs)
            same = before == of_structure and before_of_atoms.keys() == of_atoms.keys()
            if not (same and all((before_of_atoms[key] == of_atoms[key]).all() for key in of_atoms)):
                changes = ["info"]
        return changes

    def export_properties(self) -> Properties:
        """What ASE knows of the results: not the disagreement of a committee."""
        return Properties({key: value for key, value in self.results.items() if key in all_outputs})


if Calculator.name not in external_calculators:
    register_calculator_class(Calculator.name, Calculator)

# The place that pickles name: it stays the same however this package is arranged.
Calculator.__module__ = "tesseral"
