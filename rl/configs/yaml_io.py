"""Settings as YAML: written so that they read back equal, read without trust, with line numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.base import Settings
from rl.configs.problems import shown
from rl.configs.references import name_of
from rl.errors import ConfigError, Problem, UsageError

__all__ = [
    "SettingsFile",
    "from_yaml",
    "load_settings",
    "located",
    "read_scalar",
    "read_settings",
    "read_settings_file",
    "to_yaml",
]

LARGEST_FILE = 256 * 1024
"""Bytes; a settings file is a page or two."""
DEEPEST_NESTING = 16
MOST_VALUES = 10_000
"""Values after aliases are followed, so that a few lines cannot stand for a memory full of them."""
COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)

_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, which YAML 1.1 takes for text."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number; repeats values instead of naming them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _portable(value: object, path: str, problems: list[Problem]) -> Any:
    """What YAML can hold of a value; anything else becomes a problem."""
    if isinstance(value, Settings):
        return {
            name: _portable(entry, f"{path}.{name}" if path else name, problems)
            for name, entry in value.values().items()
        }
    if isinstance(value, Mapping):
        return {
            _portable(key, path, problems): _portable(entry, f"{path}.{key}", problems)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_portable(entry, path, problems) for entry in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    mend = "give numbers, text, lists and tables of them"
    if path == "encoder" and isinstance(value, type):
        if value.__module__ == "__main__" and "<locals>" not in value.__qualname__:
            return name_of(value)  # which this program reads back as the class
        mend = "put the class into a module of its own, and name it package.module:Class"
    elif callable(value):
        mend = "register it, rl.register_env('my-env', make_env), and set env='my-env'"
    problems.append(Problem(path, f"{shown(value)} cannot be written to a file; {mend}"))
    return None


def to_yaml(config: AlgorithmConfig) -> str:
    """The whole config as text that reads back equal; the first key, `algo`, names its class.

    Raises:
        ConfigError: A setting is an object of the running program, such as a callable `env`.
    """
    problems: list[Problem] = []
    values = {"algo": config.reference(), **_portable(config, "", problems)}
    if problems:
        raise ConfigError(type(config).__name__, problems)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100)


@dataclass(frozen=True)
class SettingsFile:
    """What a settings file says."""

    source: str
    """Where it was read from, for messages."""
    algo: str | None
    """Its `algo` key: a short name or `package.module:Class`."""
    values: dict[str, Any]
    """The settings, sections as dicts; not yet validated."""
    lines: dict[str, int] = field(default_factory=dict)
    """Dotted path of a setting -> the line it stands in, counted from 1."""

    def where(self, path: str) -> str:
        """The place of a setting, or of the section it would stand in."""
        known = path
        while known and known not in self.lines:
            known = known.rpartition(".")[0]
        return f"{self.source} line {self.lines[known]}" if known else self.source


class _Reader:
    """Builds values from a YAML tree, noting lines and problems."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._loader = loader
        self._source = source
        self._left = MOST_VALUES

    def complain(self, path: str, node: yaml.Node, message: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(path, f"{message} ({self._source} line {line})"))

    def value(self, node: yaml.Node, path: str, depth: int = 0) -> Any:
        self._left -= 1
        if depth > DEEPEST_NESTING or self._left < 0:
            if self._left >= -1:  # once is enough
                self.complain(path, node, "the file nests too deeply or repeats too much")
                self._left = -1
            return None
        if isinstance(node, yaml.CollectionNode) and node.tag not in COLLECTION_TAGS:
            self.complain(path, node, f"{node.tag} is no setting; a file holds plain values only")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(entry, path, depth + 1) for entry in node.value]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, path, depth + 1)
            if not isinstance(key, Hashable):
                self.complain(path, key_node, "a name must be a single word")
                continue
            inner = f"{path}.{key}" if path else str(key)
            if key in values:
                first = self.lines.get(inner, 0)
                self.complain(inner, key_node, f"is given twice, first in line {first}")
            self.lines.setdefault(inner, key_node.start_mark.line + 1)
            values[key] = self.value(value_node, inner, depth + 1)
        return values

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = self
        if value is None or type(value) in (bool, int, float, str):
            return value
        written = node.value if isinstance(node, yaml.ScalarNode) else node.tag
        message = f"{shown(written)} is no setting; if it is text, put it in quotes"
        self.complain(path, node, message)
        return None


def _too_deep(text: str) -> bool:
    """Looks before the tree is built, which would recurse."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST_NESTING:
                return True
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return False


def _syntax_problem(error: yaml.YAMLError, source: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"{source} line {mark.line + 1} column {mark.column + 1}" if mark else source
    return Problem("", f"is not YAML: {what} ({where})")


def _compose(loader: _Loader) -> yaml.Node | None:
    node: yaml.Node | None = loader.get_single_node()
    return node


def read_settings(text: str, source: str = "the text") -> SettingsFile:
    """Reads settings without validating them against a config.

    Raises:
        ConfigError: Not YAML, keys given twice, values no setting can have; all of them at once.
    """
    if len(text.encode(errors="replace")) > LARGEST_FILE:
        limit = f"settings take at most {LARGEST_FILE // 1024} KiB"
        raise ConfigError(source, [Problem("", f"is too large: {limit}")])
    try:
        if _too_deep(text):
            raise ConfigError(source, [Problem("", f"nests deeper than {DEEPEST_NESTING} levels")])
        loader = _Loader(text)
        reader = _Reader(loader, source)
        node = _compose(loader)
        values = {} if node is None else reader.value(node, "")
    except yaml.YAMLError as error:
        raise ConfigError(source, [_syntax_problem(error, source)]) from None
    if not isinstance(values, dict) and values is not None:
        problem = Problem("", f"must hold `name: value` lines; got {shown(values)}")
        raise ConfigError(source, [*reader.problems, problem])
    values = values or {}
    algo = values.pop("algo", None)
    if algo is not None and not isinstance(algo, str):
        where = f"{source} line {reader.lines['algo']}"
        message = f"must be the name of an algorithm; got {shown(algo)} ({where})"
        reader.problems.append(Problem("algo", message))
    for key in [key for key in values if not isinstance(key, str)]:
        reader.problems.append(Problem(str(key), f"is no name of a setting ({source})"))
    if reader.problems:
        raise ConfigError(source, reader.problems)
    return SettingsFile(source, algo, values, reader.lines)


def read_scalar(text: str) -> Any:
    """What one word means in a settings file: a number, true, false, null, or else text."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        return text
    return value if value is None or type(value) in (bool, int, float, str) else text


def read_settings_file(path: str | Path) -> SettingsFile:
    """Reads a settings file without validating it against a config.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        ConfigError: As `read_settings`.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / "config.yaml"
        mend = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UsageError(f"{path} is a directory, not a settings file{mend}")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8: {error}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot read the settings file {path}: {reason}") from None
    return read_settings(text, str(path))


def load_settings(path: str | Path) -> tuple[str | None, dict[str, Any]]:
    """Reads (algo, settings) from a file; raises as `read_settings_file`."""
    file = read_settings_file(path)
    return file.algo, file.values


def located(error: ConfigError, where: Callable[[str], str]) -> ConfigError:
    """The same error with the place of each setting, as `where(path)` tells it, in its message."""
    problems = []
    for problem in error.problems:
        place = where(problem.path)
        problems.append(Problem(problem.path, f"{problem.message} ({place})") if place else problem)
    return ConfigError(error.subject, problems)


def from_yaml(config_class: type[ConfigT], text: str, source: str = "the text") -> ConfigT:
    """Makes a config from text.

    Raises:
        ConfigError: All problems at once, each with its line.
    """
    file = read_settings(text, source)
    if file.algo is not None and file.algo != config_class.reference():
        message = f"is {file.algo}, which is not {config_class.__name__} ({file.where('algo')})"
        raise ConfigError(source, [Problem("algo", message)])
    try:
        return config_class(**file.values).checked()
    except ConfigError as error:
        raise located(error, file.where) from None
