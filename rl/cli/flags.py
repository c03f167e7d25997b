"""Flags: described as data, parsed by tyro, never stopping at the first mistake.

tyro sees every flag as a list of words, so that a missing or a superfluous value, an unknown flag
and a wrong value are all problems of ours, told together and with near names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from rl.configs.near import near_name
from rl.configs.problems import ELSEWHERE, near_setting
from rl.errors import Problem

__all__ = ["CommandLine", "Flag", "flag_name", "parse", "unknown_flags"]


@dataclass(frozen=True)
class Flag:
    """One flag of a command."""

    path: str
    """Dotted, in Python's spelling: `env_runners.num`."""
    help: str
    metavar: str = ""
    default: tuple[str, ...] | bool = ()
    """What help shows; a boolean makes it `--x` and `--no-x`."""
    many: bool = False
    """Whether it takes several values."""
    paired: bool = True
    """Whether a boolean has a `--no-x` beside its `--x`."""
    short: str = ""
    """Another, shorter path that it may be written by as well: `pipeline`."""


@dataclass
class CommandLine:
    """What was written on a command line."""

    values: dict[str, tuple[str, ...] | bool] = field(default_factory=dict)
    """Path of a flag -> its values, for flags that say something else than the default."""
    words: list[str] = field(default_factory=list)
    """What belongs to no flag."""
    unknown: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Flags that do not exist, with the words after them."""
    problems: list[Problem] = field(default_factory=list)

    def text(self, path: str) -> str | None:
        """The value of a flag that takes one; None when it was not given."""
        value = self.values.get(path)
        return value[0] if isinstance(value, tuple) and value else None

    def written(self, path: str) -> str:
        """A flag as a person would write it, for messages."""
        value = self.values[path]
        if isinstance(value, bool):
            return flag_name(path, negated=not value)
        return " ".join([flag_name(path), *value])


def flag_name(path: str, *, negated: bool = False) -> str:
    """`env_runners.envs_per_runner` -> `--env-runners.envs-per-runner`."""
    section, dot, leaf = path.replace("_", "-").rpartition(".")
    return f"--{section}{dot}{'no-' if negated else ''}{leaf}"


_WORDS = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="[STR [STR ...]]",
    instance_from_str=tuple,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=list,
)
"""As of `tuple[str, ...]`, which tyro would have typeguard judge: long to import."""


def _annotation(flag: Flag) -> Any:
    """What tyro reads of a flag."""
    shown = tyro.conf.arg(
        help=flag.help,
        metavar=flag.metavar or None,
        aliases=(flag_name(flag.short),) if flag.short else None,
        help_behavior_hint="" if flag.default in ((), False) else None,
    )
    if not isinstance(flag.default, bool):
        return Annotated[object, _WORDS, shown]
    if flag.paired:
        return Annotated[bool, shown]
    return Annotated[tyro.conf.FlagCreatePairsOff[bool], shown]


def _mirror(name: str, flags: Iterable[Flag], sections: Mapping[str, str]) -> type[Any]:
    """A dataclass with a field for every flag, sections nested, for tyro to read."""
    fields: list[tuple[str, Any, Any]] = []
    inside: dict[str, list[Flag]] = {}
    for flag in flags:
        section, _, rest = flag.path.partition(".")
        if rest:
            if section not in inside:
                fields.append((section, None, None))  # keeps its place
            inside.setdefault(section, []).append(dataclasses.replace(flag, path=rest))
            continue
        fields.append((flag.path, _annotation(flag), flag.default))
    made: list[tuple[str, Any, Any]] = []
    for place, kind, default in fields:
        if place in inside:
            section_class = _mirror(place, inside[place], {})
            about = tyro.conf.arg(help=sections.get(place, ""))
            made.append((place, Annotated[section_class, about], section_class()))
        else:
            made.append((place, kind, default))
    return dataclasses.make_dataclass(
        name,
        [(place, kind, dataclasses.field(default=it)) for place, kind, it in made],
        frozen=True,
    )


def _sort_leftover(leftover: Sequence[str], line: CommandLine) -> None:
    """Tells unknown flags from words."""
    for token in leftover:
        if token.startswith("-") and token.strip("-")[:1].isalpha():
            name, equals, value = token.partition("=")
            line.unknown.append((name, (value,) if equals else ()))
        elif line.unknown:
            name, words = line.unknown[-1]
            line.unknown[-1] = (name, (*words, token))
        else:
            line.words.append(token)


def parse(
    prog: str,
    description: str,
    flags: Sequence[Flag],
    argv: Sequence[str],
    *,
    sections: Mapping[str, str] | None = None,
    add_help: bool = True,
) -> CommandLine:
    """Reads a command line.

    Args:
        prog: What help calls the command.
        description: What help says it does.
        flags: Those it has.
        argv: The words after the command.
        sections: Section -> what help says about it.
        add_help: Whether `--help` prints help and raises `SystemExit(0)`.
    """
    mirror = _mirror("Options", flags, sections or {})
    parsed, leftover = tyro.cli(
        mirror,
        args=list(argv),
        default=mirror(),
        prog=prog,
        description=description,
        return_unknown_args=True,
        add_help=add_help,
    )
    line = CommandLine()
    for flag in flags:
        value: Any = parsed
        for name in flag.path.split("."):
            value = getattr(value, name)
        if value == flag.default:
            continue
        if isinstance(value, tuple) and not flag.many:
            if not value:
                shown = f"needs a value: {flag_name(flag.path)} {flag.metavar}".rstrip()
                line.problems.append(Problem(flag_name(flag.path), shown))
                continue
            line.words += value[1:]
            value = value[:1]
            if value == flag.default:
                continue
        line.values[flag.path] = value
    _sort_leftover(leftover, line)
    return line


def unknown_flags(
    line: CommandLine, flags: Sequence[Flag], settings: type | None = None, *, words: int = 0
) -> list[Problem]:
    """What a command line holds that the command does not know, with near names.

    Args:
        line: As parsed.
        flags: Those the command has.
        settings: A config class whose settings are among them; knows other libraries' names.
        words: How many words without a flag the command takes.
    """
    problems = list(line.problems)
    names = [flag_name(flag.path) for flag in flags]
    names += [flag_name(flag.short) for flag in flags if flag.short]
    names += [
        flag_name(path, negated=True)
        for flag in flags
        if isinstance(flag.default, bool) and flag.paired
        for path in (flag.path, flag.short)
        if path
    ]
    for name, _ in line.unknown:
        path = name.lstrip("-").replace("-", "_")
        setting = near_setting(settings, path) if settings else None
        meant = flag_name(setting) if setting else None
        if meant not in names:
            meant = near_name(name, names)
        mend = f"did you mean {meant}?" if meant else "--help lists those there are"
        mend = ELSEWHERE.get(path, mend) if settings else mend
        problems.append(Problem(name, f"there is no such flag; {mend}"))
    problems += [
        Problem(word, "belongs to no flag; --help lists them") for word in line.words[words:]
    ]
    return problems
