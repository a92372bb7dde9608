"""The known pretrained models."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A pretrained model that has a name."""

    name: str
    aliases: list[str]
    """Other names it is known by."""
    family: str
    summary: str
    """What it is for, in a line."""
    training: str
    """What it was trained on."""
    licence: str
    forbids: str | None
    """What the licence forbids that an open-source licence would allow."""
    reference: str
    """Paper or page to cite."""
    source: str
    """Where the checkpoint is published."""
    sha256: str | None
    status: str
    """"built in", "installed", or "-": `tesseral fetch NAME` on the command line installs it."""


def models() -> list[KnownModel]:
    """The known pretrained models, as `tesseral models` lists them. Nothing is downloaded."""
    return [KnownModel(**model) for model in _core.models()]
