"""Why a patch cannot be used."""

from __future__ import annotations


class PatchError(Exception):
    """A patch that is malformed, or does not fit the document; the text names the path."""

    def __init__(self, message: str, *, is_malformed: bool = False) -> None:
        super().__init__(message)
        self.is_malformed = is_malformed
