"""Logging never kills a run: the first refused write warns, all are counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["WriteGuard"]

_logger = logging.getLogger(__name__)


class WriteGuard:
    """Turns the `OSError`s of one file into one logged warning and a count of what was lost."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dropped = 0
        self._warned = False

    @contextmanager
    def writing(self, records: int = 0) -> Iterator[None]:
        """Guards a write that carries so many records."""
        try:
            yield
        except OSError as error:
            self.dropped += records
            if not self._warned:
                self._warned = True
                _logger.warning(
                    "cannot write %s: %s; training goes on, what cannot be written is dropped "
                    "and counted",
                    error.filename or self.name,
                    error.strerror,
                )
