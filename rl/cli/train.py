"""`train`: settles the settings and the environment before anything is written, then trains."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from rl.algorithms.registry import algorithm_names, load_config
from rl.algorithms.workers import workers_begun
from rl.cli.flags import CommandLine, Flag, parse
from rl.cli.settings import Sources, as_source, changed_names, config_from, sources_for
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.trust import imports_of
from rl.configs.yaml_io import to_yaml
from rl.errors import ConfigError, Problem, UsageError

__all__ = ["TRUST", "main", "source_flags", "sources_of", "trusted_modules"]

DESCRIPTION = (
    "Trains an algorithm on an environment. Settings are taken from the defaults, then the preset"
    " of the environment, then --config, then flags; the defaults shown here hold the others."
)


TRUST = Flag(
    "trust",
    "Modules that the config of a file or a run may name: of its algorithm, its"
    " environment, its encoder.",
    "MODULE ...",
    many=True,
)


WHERE = "runtime."
"""Settings of where a run runs, which is not what it computes."""
MAY_CHANGE = (
    "total_steps",
    *(f"env_runners.{name}" for name in ("min", "max", "step_timeout", "max_env_failures")),
)
"""What may be another on resume besides `WHERE`."""


def trusted_modules(line: CommandLine) -> tuple[str, ...]:
    """The modules of `--trust`."""
    words = line.values.get("trust", ())
    return words if isinstance(words, tuple) else ()


def _grace(line: CommandLine) -> float:
    text = line.text("grace") or "20"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        problem = Problem("grace", f"must be a number of seconds above 0; got {text!r} (--grace)")
        raise ConfigError("train", [problem])
    return seconds


def source_flags() -> list[Flag]:
    """The flags that name where settings come from; `sources_of` reads them, and `TRUST`."""
    names = ", ".join(algorithm_names())
    return [
        Flag("algo", f"Algorithm: {names}, or package.module:Class. (default: ppo)", "NAME"),
        Flag("config", "File of settings, such as the config.yaml of an earlier run.", "FILE"),
        Flag("preset", "Tuned settings to start from; by itself the environment's own.", "ENV"),
        Flag(
            "no_preset", "Start from the defaults instead of a preset.", default=False, paired=False
        ),
    ]


def sources_of(line: CommandLine) -> Sources:
    """Reads what they name; raises `RLError`."""
    return sources_for(
        line.text("algo"),
        line.text("env"),
        line.text("config"),
        line.text("preset"),
        presets="no_preset" not in line.values,
        imports=trusted_modules(line),
    )


def _options() -> list[Flag]:
    return [
        *source_flags(),
        Flag("resume", "Directory of a run to continue; --total-steps may be raised.", "RUN"),
        Flag("run_dir", "Directory of the new run. (default: a new one in runs/)", "DIR"),
        TRUST,
        Flag("grace", "Seconds from SIGTERM to the end of the run.", "FLOAT", ("20",)),
    ]


def _first_look(options: Sequence[Flag], arguments: Sequence[str]) -> CommandLine:
    """Reads the options that decide which settings there are; all else is judged later."""
    looked = [*options, Flag("env", "", default=())]
    return parse("train", "", looked, arguments, add_help=False)


def _refuse_beside_resume(line: CommandLine) -> None:
    for option in ("algo", "config", "preset", "no_preset", "run_dir", "env"):
        if option in line.values:
            raise UsageError(
                f"{line.written(option)} cannot stand beside --resume: the run goes on with its own"
                f" settings; leave it out, or start a new run with"
                f" --config {line.text('resume')}/config.yaml"
            )


def _resumed(
    run: str, options: Sequence[Flag], arguments: Sequence[str], look: CommandLine
) -> AlgorithmConfig:
    """The config of a run, its budget raised and its place changed if flags say so."""
    _refuse_beside_resume(look)
    path = Path(run) / "config.yaml"
    if not path.is_file():
        records = importlib.import_module("rl.core.records.run_directory")
        records.RunDirectory.open(run).close()  # says what is wrong with the path
    before = load_config(path, trusted_modules(look))
    sources = Sources(type(before), (as_source(before, str(path)),))
    after, _ = config_from(sources, options, arguments, "train", DESCRIPTION)
    changed = [
        name
        for name in changed_names(before, after)
        if name not in MAY_CHANGE and not name.startswith(WHERE)
    ]
    if changed:
        raise UsageError(
            f"--resume {run}: {', '.join(changed)} cannot change in the middle of a run, which"
            " would no longer be a function of its config; only --total-steps may, and where it"
            f" runs (--{WHERE}*); start a new run with --config {path}"
        )
    if after.total_steps < before.total_steps:
        raise UsageError(
            f"--total-steps {after.total_steps} is less than the {before.total_steps} of {run};"
            " it can only be raised"
        )
    return after


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    options = _options()
    look = _first_look(options, arguments)
    run = look.text("resume")
    if run is not None:
        config = _resumed(run, options, arguments, look)
    else:
        if look.text("preset") and "no_preset" in look.values:
            raise UsageError("--preset and --no-preset contradict each other; leave one out")
        config, _ = config_from(sources_of(look), options, arguments, "train", DESCRIPTION)
    grace = _grace(look)
    with workers_begun(config):  # they import what they need while we do
        return _train(config, run, look.text("run_dir"), arguments, grace)


def _refuse_finished(run: Path, result: Path, wanted: int) -> None:
    """Raises before anything is written when a run has nothing left to do."""
    if not result.exists():
        return
    try:
        done = int(json.loads(result.read_text("utf-8"))["env_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # the checkpoints tell where the run stands
    if done >= wanted:
        raise UsageError(
            f"{run} has taken its {wanted} environment steps; raise the budget with --total-steps"
            " to go on"
        )


def _absent(path: Path) -> list[Path]:
    """A path and those above it that do not exist, the deepest first."""
    return [directory for directory in (path, *path.parents) if not directory.exists()]


def _discard(run: Path, made: Sequence[Path]) -> None:
    """Takes back a new run refused before its first step, and the directories made for it.

    Some mistakes show only once torch is there, such as a device that this machine lacks.
    """
    for path in run.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # somebody else has put something there
        for directory in made:
            directory.rmdir()


def _train(
    config: AlgorithmConfig,
    resumed: str | None,
    run_dir: str | None,
    arguments: Sequence[str],
    grace: float,
) -> int:
    """Looks at the environment, makes or opens the run directory, trains."""
    from rl.cli.console import TerminalReporter
    from rl.core.records.run_directory import RunDirectory
    from rl.env_runners.environments import describe_env

    text = to_yaml(config)  # before anything is written
    describe_env(config)
    absent = _absent(Path(run_dir or "runs"))
    if resumed is None:
        run = RunDirectory.create(run_dir, env=config.env_id, algo=config.label(), seed=config.seed)
    else:
        run = RunDirectory.open(resumed)
    with run:
        _refuse_finished(run.path, run.result_file, config.total_steps)
        run.write_config(text)
        run.write_command(["train", *arguments])
        run.write_environment()
        from rl.algorithms.training import Interrupted, train_run

        with TerminalReporter(run.log_file) as reporter:
            try:
                again = resumed is not None
                train_run(config, run, resume=again, reporter=reporter, grace=grace)
            except Interrupted:
                trusted = "".join(f" --trust {module}" for module in imports_of(config))
                reporter.message(f"continue with: train --resume {run.path}{trusted}")
                raise
            except (ConfigError, UsageError):
                if resumed is None and not reporter.started:
                    _discard(run.path, absent if run_dir else [run.path, *absent])
                raise
    return 0
