"""Puts the settings of a run together: defaults < preset < `--config` < flags, validated once.

Each problem says which of them it came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from rl.algorithms.registry import config_class
from rl.cli.flags import CommandLine, Flag, flag_name, parse, unknown_flags
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.base import Settings
from rl.configs.describe import (
    admits,
    alternatives,
    choices,
    fields_of,
    help_text,
    is_section,
    setting_paths,
)
from rl.configs.presets import load_preset, preset_for
from rl.configs.trust import check_imports
from rl.configs.yaml_io import SettingsFile, located, read_scalar, read_settings_file
from rl.errors import ConfigError, Problem, UsageError

__all__ = ["Sources", "as_source", "changed_names", "config_from", "setting_flags", "sources_for"]

METAVARS: Mapping[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}
SHORT = {"env_runners.overlap": "pipeline"}
"""Flags of settings that have a shorter name as well."""


def _is_table(annotation: Any) -> bool:
    return get_origin(annotation) in (Mapping, dict)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list)


def _metavar(field: FieldInfo) -> str:
    annotation = field.annotation
    if _is_table(annotation):
        return "KEY=VALUE ..."
    if _is_list(annotation):
        return "INT ..." if int in [*_inner(annotation)] else "VALUE ..."
    names = [METAVARS[kind] for kind in METAVARS if admits(annotation, kind)]
    names += [str(choice) for choice in choices(annotation)]
    if admits(annotation, None, type(None)):
        names.append("none")
    return "|".join(names) or "VALUE"


def _inner(annotation: Any) -> Sequence[Any]:
    """The bare types of a list's entries."""
    return [kind for entry in annotation.__args__ for kind in METAVARS if admits(entry, kind)]


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def _default(field: FieldInfo, value: Any) -> tuple[str, ...] | bool:
    """A value in a flag's words; for help, and to tell whether a flag changes anything."""
    if field.annotation is bool:
        return value if isinstance(value, bool) else bool(field.default)
    if isinstance(value, Mapping):
        return tuple(f"{key}={_word(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(_word(entry) for entry in value)
    return (_word(value),)


def setting_flags(settings: type[AlgorithmConfig], values: Mapping[str, Any]) -> list[Flag]:
    """A flag for every setting; `values`, sections as dicts, are what they are without flags."""
    flags = []
    for path, field in setting_paths(settings):
        defaults: Any = settings
        chosen: Any = values
        for name in path.split("."):
            declared = fields_of(defaults if isinstance(defaults, type) else type(defaults))[name]
            defaults = getattr(defaults, name, declared.default)
            chosen = chosen.get(name, defaults) if isinstance(chosen, Mapping) else defaults
        flags.append(
            Flag(
                path,
                help_text(settings, path),
                "" if field.annotation is bool else _metavar(field),
                _default(field, chosen),
                many=_is_list(field.annotation) or _is_table(field.annotation),
                short=SHORT.get(path, ""),
            )
        )
    return flags


def section_help(settings: type[AlgorithmConfig]) -> dict[str, str]:
    """What help says about each section."""
    return {
        name: help_text(settings, name)
        for name, field in fields_of(settings).items()
        if is_section(field.annotation)
    }


@dataclass(frozen=True)
class Sources:
    """Where settings come from before flags, weakest first."""

    settings: type[AlgorithmConfig]
    files: tuple[SettingsFile, ...] = ()

    def merged(self) -> dict[str, Any]:
        """The settings of all files, sections merged."""
        values: dict[str, Any] = {}
        for file in self.files:
            values = _merge(values, file.values)
        return values

    def where(self, path: str) -> str:
        """The strongest source of a setting."""
        for file in reversed(self.files):
            if path in file.lines:
                return file.where(path)
        return ""


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge(known, value)
        else:
            merged[name] = value
    return merged


def sources_for(
    algo: str | None,
    env: str | None,
    config: str | None,
    preset: str | None,
    *,
    presets: bool,
    imports: Collection[str] = (),
) -> Sources:
    """Reads the files that the options of `train` name.

    Args:
        algo: `--algo`; else the file's, else ppo.
        env: `--env`; else the preset's or the file's, else the default.
        config: `--config`.
        preset: `--preset`; else the environment's own is taken, if `presets`.
        presets: False for `--no-preset`.
        imports: `--trust`: modules that the file may name.
    """
    file = read_settings_file(config) if config else None
    if algo and file and file.algo and algo != file.algo:
        raise UsageError(
            f"--algo {algo} contradicts {file.where('algo')}, whose settings are {file.algo}'s;"
            " leave --algo out, or give another --config"
        )
    if file:
        check_imports(
            file,
            imports,
            replaced=[name for name, given in (("algo", algo), ("env", env)) if given],
        )
    algo = algo or (file.algo if file else None) or "ppo"
    settings = config_class(algo)
    name = settings.reference()
    if preset:
        chosen: SettingsFile | None = load_preset(name, preset)
    else:
        default_env = fields_of(settings)["env"].default
        wanted = env or (file.values.get("env") if file else None) or default_env
        chosen = preset_for(name, wanted) if presets and isinstance(wanted, str) else None
    return Sources(settings, tuple(part for part in (chosen, file) if part))


def _table(words: Sequence[str], path: str, problems: list[Problem]) -> dict[str, Any]:
    table = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            flag = flag_name(path)
            problems.append(Problem(path, f"{word!r} is not KEY=VALUE ({flag} {' '.join(words)})"))
            continue
        table[key] = read_scalar(text)
    return table


def _read(field: FieldInfo, words: tuple[str, ...] | bool, path: str, out: list[Problem]) -> Any:
    """The value that a flag's words stand for; the validator makes numbers of them."""
    if isinstance(words, bool):
        return words
    if _is_table(field.annotation):
        return _table(words, path, out)
    if _is_list(field.annotation):
        return list(words)
    if words[0].lower() == "none" and type(None) in alternatives(field.annotation):
        return None
    return words[0]


def settings_from_line(
    settings: type[AlgorithmConfig], line: CommandLine, problems: list[Problem]
) -> dict[str, Any]:
    """The settings that flags give, sections as dicts."""
    values: dict[str, Any] = {}
    for path, field in setting_paths(settings):
        if path not in line.values:
            continue
        *sections, leaf = path.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = _read(field, line.values[path], path, problems)
    return values


def config_from(
    sources: Sources, options: Sequence[Flag], argv: Sequence[str], prog: str, description: str
) -> tuple[AlgorithmConfig, CommandLine]:
    """Parses flags and validates everything at once.

    Args:
        sources: What is there before flags.
        options: Flags of the command that are no settings.
        argv: The words after the command.
        prog: What help calls the command.
        description: What help says it does.

    Raises:
        ConfigError: Unknown flags, wrong values and broken rules of all sources.
    """
    settings, below = sources.settings, sources.merged()
    flags = [*options, *setting_flags(settings, below)]
    line = parse(prog, description, flags, argv, sections=section_help(settings))
    problems = unknown_flags(line, flags, settings)
    values = _merge(below, settings_from_line(settings, line, problems))

    def where(path: str) -> str:
        return line.written(path) if path in line.values else sources.where(path)

    made = None
    try:
        made = settings(**values).checked()
    except ConfigError as error:
        problems += located(error, where).problems
    if made is None or problems:
        raise ConfigError(prog, problems)
    return made, line


def changed_names(before: AlgorithmConfig, after: AlgorithmConfig) -> list[str]:
    """Dotted paths of the settings in which two configs of one class differ."""
    return [
        path for path, _ in setting_paths(type(before)) if _at(before, path) != _at(after, path)
    ]


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def as_source(config: AlgorithmConfig, source: str) -> SettingsFile:
    """A config as if read from a file."""
    values = {
        name: value.values() if isinstance(value, Settings) else value
        for name, value in config.values().items()
    }
    return SettingsFile(source, config.reference(), values)
