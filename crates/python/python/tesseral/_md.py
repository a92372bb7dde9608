"""Molecular dynamics of `ase.Atoms`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import _core, _structures
from ._errors import InputError
from ._potential import resolve
from ._relax import movable

# Results of a frame, which are not metadata of the structure.
_RESULTS = ("energy", "free_energy", "stress")


class Trajectory(Sequence):
    """Frames of a run: a sequence of `ase.Atoms` with momenta, energies, forces and stresses, and with `step`, `time` (fs) and `temperature` (K) in their `info`."""

    def __init__(self, folder: Path, file: str, template: Any, result: Mapping[str, Any], replica: int = 0) -> None:
        self.folder: Path = folder
        """Folder of the run (of this replica). Of a run without one, it is gone."""
        self.outcome: str = result["outcome"]
        """"done", or "stopped" by a guard."""
        self.violation: str | None = dict(result["violations"]).get(replica)
        """Why a guard has stopped it."""
        self.steps: float = result["steps"]
        """Steps done."""
        self.seconds: float = result["seconds"]
        """Seconds that this call took, all replicas together."""
        self.seconds_in_forces: float = result["seconds_in_forces"]
        """Those of them that went into forces."""
        self._file = file
        self._template = template
        self._frames: list[Any] | None = None
        self._final: Any = None
        self._thermo: dict[str, np.ndarray] | None = None

    def _load(self) -> Trajectory:
        _ = self.frames, self.final, self.thermo
        return self

    @property
    def frames(self) -> list[Any]:
        """All frames."""
        if self._frames is None:
            path = self.folder / self._file
            if self._file.endswith(".nc"):
                raise InputError(f"{path} is AMBER NetCDF, which is not read here", 'read it with ase.io.read or MDAnalysis, or choose format="extxyz"')
            self._frames = [_atoms(frame, self._template) for frame in _core.read_frames(path)]
        return self._frames

    @property
    def final(self) -> Any:
        """The last structure, with momenta: another run can begin with it. Of a run that a guard has stopped, the last frame."""
        if self._final is None:
            path = self.folder / "final.extxyz"
            if not path.exists():
                return self.frames[-1]
            (frame,) = _core.read_frames(path)
            self._final = _atoms(frame, self._template)
        return self._final

    @property
    def thermo(self) -> dict[str, np.ndarray]:
        """The log: an array for each quantity, such as `time` (fs), `temperature` (K), `potential`, `kinetic`, `total`, `conserved` (eV), `pressure` (GPa), `volume` (Å³)."""
        if self._thermo is None:
            rows = [json.loads(line) for line in (self.folder / "thermo.jsonl").read_text(encoding="utf-8").splitlines()]
            keys = rows[0].keys() if rows else ()
            self._thermo = {key: np.array([row[key] for row in rows]) for key in keys if all(row.get(key) is not None for row in rows)}
        return self._thermo

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]

    def __repr__(self) -> str:
        return f"<tesseral.Trajectory {self.outcome} after {self.steps:g} steps, {self.folder}>"


def _atoms(frame: dict[str, Any], template: Any) -> Any:
    """A frame as Atoms; what the run does not know of (tags, constraints) is that of the atoms that it began with."""
    from ase import Atoms

    info, arrays = frame["info"], frame["arrays"]
    if template is None:
        atoms = Atoms(numbers=frame["numbers"])
    else:
        atoms = template.copy()
        atoms.info.clear()
    atoms.set_cell(frame["cell"])
    atoms.set_pbc(frame["pbc"])
    atoms.set_positions(frame["positions"], apply_constraint=False)
    if "momenta" in arrays:
        atoms.set_momenta(arrays["momenta"], apply_constraint=False)
    if template is not None:
        atoms.info.update(template.info)
    atoms.info.update({key: value for key, value in info.items() if key not in _RESULTS})
    results = {"energy": info.get("energy"), "free_energy": info.get("energy"), "forces": arrays.get("forces")}
    if "stress" in info:
        s = np.asarray(info["stress"], dtype=float).reshape(3, 3)
        results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
    return _structures.with_results(atoms, results if results["energy"] is not None else None)


def _pair(value: float | tuple[float, float] | None, name: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, (int, float, np.number)):
        return float(value), float(value)
    try:
        begin, end = value
        return float(begin), float(end)
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r}", "a number, or two: from where to where it changes over the run") from None


def _masses(atoms: Any) -> dict[str, float]:
    """Masses of elements that the atoms have of their own."""
    if "masses" not in atoms.arrays:
        return {}
    masses: dict[str, float] = {}
    for symbol, mass in zip(atoms.get_chemical_symbols(), atoms.get_masses(), strict=True):
        if masses.setdefault(symbol, float(mass)) != mass:
            raise InputError(f"atoms of {symbol} have different masses", "here masses go by element: use one mass, or dynamics of ASE with tesseral.Calculator")
    return masses


def md(
    atoms: Any,
    potential: Any = None,
    *,
    steps: int | None = None,
    time: float | None = None,
    ensemble: Literal["nve", "langevin", "nose-hoover", "bussi", "npt-scr", "npt-mtk"] = "bussi",
    temperature: float | tuple[float, float] = 300.0,
    pressure: float | tuple[float, float] | None = None,
    anisotropic: bool = False,
    time_step: float | None = None,
    seed: int = 0,
    replicas: int = 1,
    keep_velocities: bool | None = None,
    free_centre_of_mass: bool = False,
    remove_rotation: bool = False,
    friction: float = 10.0,
    thermostat_time: float = 100.0,
    chain: int = 3,
    barostat_time: float = 1000.0,
    compressibility: float = 0.02,
    folder: str | os.PathLike | None = None,
    save_every: int | None = None,
    log_every: int | None = None,
    restart_every: int = 100,
    format: Literal["extxyz", "extxyz-gz", "netcdf"] = "extxyz",
    analysis: bool | None = None,
    rdf_max: float = 10.0,
    report: bool | None = None,
    guards: Iterable[str] = (),
    rollbacks: int = 5,
    calm_steps: int = 1000,
    skin: float = 0.5,
    resume: bool = False,
    overwrite: bool = False,
    ignore_constraints: bool = False,
) -> Any:
    """Runs molecular dynamics, with the files, guards and exact restarts of `tesseral md`.

    Parameters
    ----------
    atoms
        `ase.Atoms` to begin with; not changed. Atoms that FixAtoms holds stay where they are. May be None with `resume`.
    potential
        A `Potential`, a `Calculator`, a model as `Potential` takes it, or None: that of the atoms, or the built-in model where they have none.
    steps, time
        How long: a number of steps, or ps.
    ensemble
        What is kept constant: "nve", "langevin", "nose-hoover", "bussi" (constant volume), "npt-scr", "npt-mtk" (constant pressure).
    temperature, pressure
        K and GPa, or pairs of them: from where to where they change over the run.
    anisotropic
        Let shape and volume change at constant pressure, rather than the volume alone.
    time_step
        fs; None: by the lightest atom, 0.5 for hydrogen to 2.
    keep_velocities
        Begin with the momenta of the atoms rather than draw velocities; None: if they have any.
    replicas
        Independent runs from the same structure, evaluated together; the seed of replica k is k more.
    friction, thermostat_time, barostat_time, compressibility
        1/ps, fs, fs, 1/GPa.
    folder
        Folder of the run, as of `tesseral md -o`. Without one nothing is kept but what is returned.
    save_every, log_every, restart_every
        Steps between frames, lines of the log, and saved states.
    analysis, report
        Radial distributions, displacements and spectra; a page for people. None: where there is a folder.
    guards
        What to watch, as on the command line: ["force=stop:50", "contact=off"].
    skin
        How far beyond the cutoff neighbours are listed, Å.
    resume
        Go on with the run in the folder, to the bit; all settings are those of the run, but `steps` or `time`, which make it longer, and `guards`.
    overwrite
        Replace a run that is in the folder.

    Returns
    -------
    A `Trajectory`; with replicas a list of them. Ctrl-C ends the run after a step and raises KeyboardInterrupt; what is in the folder can be resumed. Where a guard stops the
    run, `outcome` is "stopped" and `violation` says why.
    """
    _structures.require_ase("tesseral.md")
    if resume and folder is None:
        raise InputError("resume needs the folder of the run")
    if atoms is None and not resume:
        raise InputError("which atoms?", "only a run that is resumed has its own")
    if atoms is not None and not _structures.is_structure(atoms):
        raise TypeError("md takes one structure; replicas=N runs N of it, and several structures are several calls")
    used = resolve(potential, atoms)
    fixed, masses, arrays = [], {}, None
    if atoms is not None:
        free = None if ignore_constraints else movable(atoms)
        if free is not None:
            if (free.any(axis=1) != free.all(axis=1)).any():
                raise InputError("atoms that are held along some directions only cannot be kept in dynamics", "hold them altogether (FixAtoms)")
            fixed = np.flatnonzero(~free.any(axis=1)).tolist()
        masses = _masses(atoms)
        momenta = atoms.get_momenta() if "momenta" in atoms.arrays else None
        if keep_velocities is None:
            keep_velocities = momenta is not None and bool(np.any(momenta))
        more = {} if momenta is None else {"momenta": np.ascontiguousarray(momenta, dtype=np.float64)}
        arrays = _structures.arrays(atoms, used.inputs, more)
    temporary = None
    if folder is None and format == "netcdf":
        raise InputError('format="netcdf" needs a folder', "frames that are returned are read from extended XYZ")
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="tesseral-md-")
        folder = temporary.name
    place = Path(folder).absolute()
    kept = temporary is None
    arguments = {
        "folder": place,
        "ensemble": ensemble,
        "temperature": _pair(temperature, "temperature"),
        "pressure": _pair(pressure, "pressure"),
        "anisotropic": anisotropic,
        "steps": steps,
        "time": time,
        "time_step": time_step,
        "seed": seed,
        "replicas": replicas,
        "keep_velocities": bool(keep_velocities),
        "fixed": fixed,
        "fix_centre_of_mass": not free_centre_of_mass,
        "remove_rotation": remove_rotation,
        "masses": masses,
        "friction": friction,
        "thermostat_time": thermostat_time,
        "chain": chain,
        "barostat_time": barostat_time,
        "compressibility": compressibility,
        "save_every": save_every,
        "log_every": log_every,
        "restart_every": restart_every,
        "format": format,
        "rdf_max": rdf_max,
        "analysis": kept if analysis is None else analysis,
        "guards": [guards] if isinstance(guards, str) else list(guards),
        "rollbacks": rollbacks,
        "calm_steps": calm_steps,
        "skin": skin,
        "report": kept if report is None else report,
        "resume": resume,
        "overwrite": overwrite,
    }
    try:
        result = _core.md(used._field, arrays, arguments)
        template = None
        if atoms is not None:
            template = atoms.copy()
        count = result["replicas"]
        folders = [place if count == 1 else place / f"replica-{k}" for k in range(count)]
        trajectories = [Trajectory(of, result["trajectory"], template, result, k) for k, of in enumerate(folders)]
        if not kept:
            # Before the folder goes.
            for trajectory in trajectories:
                trajectory._load()
    finally:
        if temporary is not None:
            temporary.cleanup()
    return trajectories[0] if count == 1 else trajectories
