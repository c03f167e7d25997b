"""Fails when a ratio to a peer fell by more than 15 % from the one in `reference.json`.

Ratios, never times: those of one run drift with the machine together, their ratio less. A
comparison that is missing, failed or had no peer fails too, or nothing measured would be nothing
wrong; `--allow-absent` excuses peers that were not there, `--only` all but some comparisons.

    python benchmarks/guard.py [RESULTS] [--only NAME ...] [--allow-absent]

Exit code 0: all hold; 1: some do not, a line each; 2: there is nothing to judge.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FALL = 0.15
"""Part of a ratio that it may lose."""

Reference = Mapping[str, Mapping[str, float]]


def read_results(text: str) -> dict[str, dict[str, Any]]:
    """What is known of each comparison; a later line of one replaces what it says anew.

    Raises:
        ValueError: A line is none of `run_all.py`.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            name = told["comparison"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is none that run_all.py writes: {error!r}") from None
        if "failed" not in told:
            found.get(name, {}).pop("failed", None)
        found.setdefault(name, {}).update(told)
    return found


def judge(
    reference: Reference,
    results: Mapping[str, Mapping[str, Any]],
    *,
    allow_absent: bool = False,
    fall: float = FALL,
) -> tuple[list[str], list[str]]:
    """What holds, and what does not; a line each."""
    good, bad = [], []
    for name, ratios in reference.items():
        told = results.get(name)
        if told is None:
            bad.append(f"{name}: not measured")
        elif "failed" in told:
            bad.append(f"{name}: failed: {told['failed']}")
        elif told.get("quick"):
            bad.append(f"{name}: measured with --quick, which means nothing")
        else:
            for ratio, expected in ratios.items():
                value = told.get(ratio)
                if value is None and _absent(told):
                    (good if allow_absent else bad).append(f"{name}, {ratio}: the peer was absent")
                    continue
                line = f"{name}, {ratio}: {value}, reference {expected}"
                least = (1 - fall) * expected
                if not isinstance(value, int | float) or not math.isfinite(value):
                    bad.append(f"{name}, {ratio}: no such number was measured")
                elif value < least:
                    bad.append(f"{line}: fell by {1 - value / expected:.0%}")
                else:
                    good.append(line)
    return good, bad


def _absent(told: Mapping[str, Any]) -> bool:
    return any(isinstance(entry, str) and entry.startswith("absent") for entry in told.values())


def newest(directory: Path) -> Path | None:
    """The results written last."""
    files = sorted(directory.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    return files[-1] if files else None


def _chosen(reference: Reference, names: Iterable[str]) -> Reference:
    unknown = [name for name in names if name not in reference]
    if unknown:
        raise ValueError(f"no reference for {', '.join(unknown)}; there are {', '.join(reference)}")
    return {name: reference[name] for name in names} or reference


def main(arguments: list[str] | None = None) -> int:
    """Judges; returns the exit code."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("results", nargs="?", type=Path, help="(default: the newest)")
    flags.add_argument("--reference", type=Path, default=HERE / "reference.json")
    flags.add_argument("--only", nargs="+", default=[], metavar="NAME")
    flags.add_argument("--allow-absent", action="store_true", help="excuse absent peers")
    options = flags.parse_args(arguments)
    path = options.results or newest(HERE / "results")
    if path is None:
        print("error: there are no results yet: make bench", file=sys.stderr)
        return 2
    try:
        reference = _chosen(json.loads(options.reference.read_text("utf-8")), options.only)
        results = read_results(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 2
    good, bad = judge(reference, results, allow_absent=options.allow_absent)
    for line in good:
        print(f"ok     {line}")
    for line in bad:
        print(f"FAILED {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
