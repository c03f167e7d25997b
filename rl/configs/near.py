"""The name that somebody likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["near_name"]

SHORTEST_START = 3
"""Letters from which on the beginning of a name counts as near to it."""


def near_name(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, or None when none is."""
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    if len(name) >= SHORTEST_START:
        for folded, candidate in by_folded.items():
            if folded.startswith(name.lower()):
                return candidate
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None
