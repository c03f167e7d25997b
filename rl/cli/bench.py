"""`rl bench`: trains with the environments placed in several ways, and says which is fastest."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl.algorithms.stopping import ends_at_once
from rl.cli.flags import Flag, parse
from rl.cli.settings import config_from
from rl.cli.train import TRUST, source_flags, sources_of
from rl.configs.algorithm_config import AlgorithmConfig
from rl.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from rl.algorithms.trials import Measured, Placement

__all__ = ["main"]

DESCRIPTION = (
    "Trains on ENV for a short while with several numbers of runners, inline and in processes, and"
    " says which is the fastest here. Nothing is kept. Settings are those of train, with the same"
    " flags: give those of the run you have in mind."
)
SECONDS = 30.0
PARTS = ("environment", "inference", "learning", "waiting")


def _options() -> list[Flag]:
    return [
        *source_flags(),
        TRUST,
        Flag("seconds", "Time to measure in, about.", "FLOAT", (f"{SECONDS:g}",)),
        Flag(
            "vary_environments",
            "Try other numbers of environments in all, too, which learn something else.",
            default=False,
            paired=False,
        ),
    ]


def _seconds(text: str | None, problems: list[Problem]) -> float:
    try:
        seconds = SECONDS if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        problems.append(Problem("--seconds", f"must be a number above 0; got {text!r}"))
    return seconds


def _with_env(arguments: Sequence[str]) -> list[str]:
    """The arguments with ENV, the first, as the flag it is for `train`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--env", *arguments]
    return list(arguments)


def _read(arguments: Sequence[str]) -> tuple[AlgorithmConfig, float, bool]:
    """The config, the seconds and whether numbers vary; raises `RLError` with all problems."""
    options, words = _options(), _with_env(arguments)
    asks_help = any(word in ("-h", "--help") for word in words)
    look = parse("rl bench", "", [*options, Flag("env", "")], words, add_help=False)
    problems: list[Problem] = []
    seconds = _seconds(look.text("seconds"), problems)
    if look.text("env") is None and look.text("config") is None and not asks_help:
        problems.append(Problem("", "needs an environment first: rl bench CartPole-v1"))
    if look.text("preset") and "no_preset" in look.values:
        problems.append(Problem("--no-preset", "contradicts --preset; leave one out"))
    sources = sources_of(look)
    try:
        config, _ = config_from(sources, options, words, "rl bench", DESCRIPTION)
        if config.runtime.engine == "ray":
            which = "ray cannot be tried: what is compared is inline and process; leave it out"
            problems.append(Problem("runtime.engine", which))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError("rl bench", problems)
    return config, seconds, "vary_environments" in look.values


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    with ends_at_once():  # while modules are imported; afterwards Ctrl-C closes what is open
        config, seconds, vary = _read(arguments)

        from rl.algorithms.trials import as_measured, measure, placements
        from rl.core.runtime.resources import available_cpus
        from rl.env_runners.environments import describe_env

        describe_env(config)
        cores = available_cpus()
        candidates = placements(config, cores, vary=vary)
        if not candidates:
            raise UsageError(
                f"rl bench: on {cores} cores there is nothing to choose from: every other placement"
                " contradicts the settings"
            )
        importlib.import_module(config.algorithm_path.partition(":")[0])
    trained = as_measured(config)
    print(
        f"{config.label()} on {config.env_id}, environments in all: {config.num_environments};"
        f" placements to try: {len(candidates)}, on {cores} cores, in about {seconds:g} s"
    )
    for line in _remarks(config, trained):
        print(line)
    found = measure(trained, candidates, seconds, _tell)
    for line in [*_table(found), *_advice(found, config.num_environments, vary=vary)]:
        print(line)
    return 0


def _tell(text: str) -> None:
    """Progress, which is no part of the answer."""
    print(text, file=sys.stderr, flush=True)


def _remarks(config: AlgorithmConfig, trained: AlgorithmConfig) -> list[str]:
    before = getattr(config, "learning_starts", 0)
    after = getattr(trained, "learning_starts", 0)
    if before == after:
        return []
    return [f"learning starts after {after} steps here, not after {before}, so as to be measured"]


def _table(found: Sequence[Measured]) -> list[str]:
    head = f"{'runners':>7} {'each':>5}  {'engine':<8} {'steps/s':>9}  {'range':<19}"
    lines = ["", head + "".join(f" {part:>11}" for part in PARTS)]
    for one in found:
        place, shares = one.placement, one.spent.shares()
        spread = f"{min(one.speeds):,.0f} to {max(one.speeds):,.0f}"
        told = "".join(f" {shares.get(part, 0.0):>11.0%}" for part in PARTS)
        lines.append(
            f"{place.runners:>7} {place.envs_per_runner:>5}  {place.engine:<8}"
            f" {one.speed:>9,.0f}  {spread if len(one.speeds) > 1 else '':<19}{told}"
        )
    return [*lines, ""]


def _advice(found: Sequence[Measured], environments: int, *, vary: bool) -> list[str]:
    """What to take, and how sure that is."""
    from rl.algorithms.trials import as_fast

    same = [one for one in found if one.placement.environments == environments]
    best = max(same, key=lambda one: one.speed)
    near = as_fast(same)
    lines = _certainty(near, best, once=len(best.speeds) == 1)
    lines.append(f"add to train: {near[0].placement.flags}")
    if not vary:
        lines.append(
            f"The environments together stay {environments}: how many there are changes the batch,"
            " and so what is learnt. --vary-environments tries other numbers."
        )
        return lines
    fastest = as_fast(found)
    if all(one.placement.environments != environments for one in fastest):
        place: Placement = fastest[0].placement
        lines.append(
            f"faster, but it learns something else, from {place.environments} environments instead"
            f" of {environments}: {place.flags}"
            f" ({fastest[0].speed / near[0].speed:.2f} times the steps/s)"
        )
    else:
        lines.append("Another number of environments, which would learn something else, gains none")
    return lines


def _certainty(near: Sequence[Measured], best: Measured, *, once: bool) -> list[str]:
    lines = []
    if once:
        lines.append(
            "Each was measured once, so what of a difference is noise is not known; a larger"
            " --seconds measures more often."
        )
    if len(near) == 1:
        return [*lines, f"The fastest: {best.placement}."]
    names = "; ".join(str(one.placement) for one in near)
    return [*lines, f"As fast as each other, within the noise: {names}. The first is the simplest."]
