"""Training and fine-tuning."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _core
from ._core import template

Config = str | os.PathLike | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Training:
    """How a training has ended."""

    ending: str
    """"finished", "patience" (the validation loss did not get better) or "time"."""
    model: Path | None
    """The trained model, an artifact that `Calculator` and `Potential` take."""
    report: Path | None
    """The report for people."""
    errors: dict[str, dict[str, Any]]
    """Errors on each set of data: `frames`, `atoms`, and for `energy` (eV), `energy_per_atom` (eV/atom), `forces` (eV/Å) and `stress` (eV/Å³) `rmse`, `mae` and more."""


def _settings(settings: Iterable[str] | Mapping[str, Any]) -> list[str]:
    if isinstance(settings, Mapping):
        # Values of TOML are written as those of JSON, but for None.
        return [f"{key}={json.dumps(os.fspath(value) if isinstance(value, os.PathLike) else value)}" for key, value in settings.items()]
    return [settings] if isinstance(settings, str) else list(settings)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a configuration holds tables, lists, texts, numbers and booleans, not {type(value).__name__}")


def _train(command: str, config: Config | None, **arguments: Any) -> Training:
    path, text = None, None
    if isinstance(config, Mapping):
        text = json.dumps(config, default=_plain, allow_nan=False)
    elif config is not None:
        path = Path(config)
    outcome = _core.train(
        {
            "path": path,
            "json": text,
            "command": command,
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **arguments,
        }
    )
    errors = {row["set"]: row["errors"] for row in json.loads(outcome["errors"])}
    model, report = (None if outcome[key] is None else Path(outcome[key]) for key in ("model", "report"))
    return Training(outcome["ending"], model, report, errors)


def train(
    config: Config,
    *,
    set: Iterable[str] | Mapping[str, Any] = (),
    output: str | os.PathLike | None = None,
    resume: bool = False,
    threads: int | None = None,
) -> Training:
    """Trains a potential on reference calculations, as `tesseral train` does.

    Parameters
    ----------
    config
        A TOML file, or the same as a dictionary. `tesseral.template()` has every key, its default and unit. Paths in a file are relative to its folder, those of a dictionary
        to the current one.
    set
        Settings over those: `{"training.seed": 7}` or `["training.seed=7"]`.
    output
        Folder of the run, over `output.directory`.
    resume
        Go on with the training in that folder, bit for bit.

    What happens on the way goes to `logging.getLogger("tesseral.train")`, with the level INFO. Ctrl-C finishes the step, saves the state and raises KeyboardInterrupt; `resume`
    goes on from there.
    """
    return _train("tesseral.train", config, set=_settings(set), foundation=None, data=[], output=output, resume=resume, threads=threads)


def finetune(
    model: str | os.PathLike,
    data: Iterable[str | os.PathLike] | str | os.PathLike = (),
    *,
    config: Config | None = None,
    set: Iterable[str] | Mapping[str, Any] = (),
    output: str | os.PathLike | None = None,
    resume: bool = False,
    threads: int | None = None,
) -> Training:
    """Goes on training a pretrained potential with data of your own, as `tesseral finetune` does.

    Parameters
    ----------
    model
        The model to start from: a name of `tesseral.models()`, an artifact, or a checkpoint.
    data
        Files of reference calculations.
    config
        A TOML file or a dictionary; None: the preset `finetune`.
    set, output, resume
        As of `train`.
    """
    files = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    return _train(
        "tesseral.finetune",
        config,
        set=_settings(set),
        foundation=os.fspath(model),
        data=files,
        output=output,
        resume=resume,
        threads=threads,
    )


__all__ = ["Training", "finetune", "template", "train"]
