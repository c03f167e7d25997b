"""The two commands, and how every end of one becomes an exit code and at most one message."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rl.algorithms.stopping import ends_at_once
from rl.configs.near import near_name
from rl.errors import EnvironmentFault, RLError, RuntimeFault, UsageError

__all__ = ["Terminated", "rl_main", "run_command", "train_main"]

COMMANDS = {
    "train": "train an algorithm on an environment",
    "evaluate": "play episodes with the policy of a run or a checkpoint",
    "record": "write a video of the policy of a run or a checkpoint at play",
    "algos": "list the algorithms",
    "envs": "list the environments",
    "doctor": "check an environment of your own",
    "bench": "find the fastest number of runners, and their engine, for a run here",
}
"""Command -> what it does; each is `main(arguments) -> exit code` in a module of its name."""

INTERRUPTED = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM. What cleans up after Ctrl-C cleans up after this."""

    exit_code = 143


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise Terminated("by SIGTERM")


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _users_traceback(error: RLError) -> str:
    """The traceback of the user's own code behind our error; empty when none of it raised."""
    if isinstance(error, EnvironmentFault) and error.user_traceback:
        return error.user_traceback
    theirs = isinstance(error, EnvironmentFault | RuntimeFault)
    if error.__cause__ is None or not (theirs or getattr(error, "shows_cause", False)):
        return ""
    return "".join(traceback.format_exception(error.__cause__))


def _say(message: str) -> None:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)


def run_command(command: Callable[[list[str]], int], arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit code of however it ended, having said why."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # so that `--algo my_file:MyConfig` finds what lies here
    try:
        with _sigterm_raises():
            return command(list(arguments))
    except RLError as error:
        sys.stderr.write(_users_traceback(error))
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        _say(f"stopped: {str(stop) or 'interrupted'}")
        return int(getattr(stop, "exit_code", INTERRUPTED))
    except BrokenPipeError:  # `rl envs | head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            _say(f"{error}: this machine gives no more of them; raise its limit (ulimit -n)")
            return RuntimeFault.exit_code
        traceback.print_exc()
        _say(f"a bug of rl: {type(error).__name__}: {error}; please report it with the above")
        return 1


def _named(name: str) -> Callable[[list[str]], int]:
    command: Callable[[list[str]], int] = importlib.import_module(f"rl.cli.{name}").main
    return command


def _train(arguments: list[str]) -> int:
    with ends_at_once():
        return _named("train")(arguments)


def _dispatch(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print("usage: rl COMMAND ...\n")
        for command, about in COMMANDS.items():
            print(f"  {command:<10}{about}")
        print("\n`rl COMMAND --help` tells more.")
        return 0
    if name == "--version":
        print(importlib.import_module("rl.version").__version__)
        return 0
    if name not in COMMANDS:
        meant = near_name(name, COMMANDS)
        mend = f"did you mean {meant!r}?" if meant else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"rl has no command {name!r}; {mend}")
    return _train(rest) if name == "train" else _named(name)(rest)


def train_main(arguments: Sequence[str] | None = None) -> int:
    """The command `train`."""
    return run_command(_train, sys.argv[1:] if arguments is None else arguments)


def rl_main(arguments: Sequence[str] | None = None) -> int:
    """The command `rl`."""
    return run_command(_dispatch, sys.argv[1:] if arguments is None else arguments)
