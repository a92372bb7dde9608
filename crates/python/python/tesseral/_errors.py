"""What can go wrong."""

from __future__ import annotations


class TesseralError(RuntimeError):
    """An error of the library: `message` says what, `hint` (or None) what to do, `index` which structure it is about where there are many."""

    def __init__(self, message: str = "", hint: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.index = index

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"

    def __reduce__(self):
        return type(self), (self.message, self.hint, self.index)


class InputError(TesseralError, ValueError):
    """An argument or a structure that makes no sense; a `ValueError` as well."""


class ModelNotFoundError(TesseralError, FileNotFoundError):
    """No such model, or one that is not installed; a `FileNotFoundError` as well."""
