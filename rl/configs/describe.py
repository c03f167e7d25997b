"""Says in plain words what a setting may be, from its annotation alone."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

__all__ = [
    "Words",
    "admits",
    "alternatives",
    "choices",
    "fields_of",
    "help_text",
    "is_section",
    "rule",
    "setting_paths",
]


@dataclass(frozen=True)
class Words:
    """Put in `Annotated`: what a value must be, where the type and its bounds do not say it."""

    text: str


def is_section(annotation: Any) -> bool:
    """Whether a field of this type holds settings of its own."""
    return isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__")


def fields_of(settings: type) -> Mapping[str, FieldInfo]:
    """The settings of a config or section class, in the order they were declared."""
    declared: Mapping[str, FieldInfo] = settings.__pydantic_fields__  # type: ignore[attr-defined]
    return declared


def setting_paths(settings: type, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields (dotted path, field) of every setting, sections opened."""
    for name, field in fields_of(settings).items():
        if is_section(field.annotation):
            assert isinstance(field.annotation, type)
            yield from setting_paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def help_text(settings: type, path: str) -> str:
    """The docstring under a setting; a subclass that only changes the default inherits it."""
    head, _, rest = path.partition(".")
    if rest:
        section = fields_of(settings)[head].annotation
        assert isinstance(section, type)
        return help_text(section, rest)
    for owner in settings.__mro__:
        own: Mapping[str, FieldInfo] = owner.__dict__.get("__pydantic_fields__", {})
        description = own[head].description if head in own else None
        if description:
            return " ".join(description.split())
    return ""


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone; `Annotated` is kept."""
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def admits(annotation: Any, *wanted: Any) -> bool:
    """Whether the annotation allows one of the types in `wanted`; `Any` allows all."""
    members = [_bare(member) for member in alternatives(_bare(annotation))]
    return any(member in wanted or member is Any for member in members)


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, alone or in a union."""
    found: list[Any] = []
    for member in map(_bare, alternatives(_bare(annotation))):
        if get_origin(member) is Literal:
            found += get_args(member)
    return tuple(found)


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    """Opens the `Field(...)` objects that stand inside a nested `Annotated`."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _bounds(metadata: list[Any]) -> str:
    phrases = []
    for item in metadata:
        if isinstance(item, annotated_types.Gt):
            phrases.append(f"greater than {item.gt}")
        elif isinstance(item, annotated_types.Ge):
            phrases.append(f"at least {item.ge}")
        elif isinstance(item, annotated_types.Lt):
            phrases.append(f"less than {item.lt}")
        elif isinstance(item, annotated_types.Le):
            phrases.append(f"at most {item.le}")
    text = " and ".join(phrases)
    return f"of {text}" if text.startswith("at ") else text


PLAIN: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    None: "none",
    type(None): "none",
}


def _listing(arguments: tuple[Any, ...]) -> str:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each entry {rule(arguments[0])}"
    return "a list of " + ", ".join(rule(argument) for argument in arguments)


def rule(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value must be: `a number greater than 0 and at most 1`, `one of tanh, relu`, ..."""
    items = list(_flat(metadata))
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return rule(inner, [*more, *items])
    for item in items:
        if isinstance(item, Words):
            return item.text
    if origin in (Union, types.UnionType):
        return " or ".join(rule(member, items) for member in get_args(annotation))
    if origin is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin is tuple:
        return _listing(get_args(annotation))
    if is_section(annotation):
        return "a section with the settings " + ", ".join(fields_of(annotation))
    if origin in (Mapping, dict) or annotation in (Mapping, dict):
        return "a table of names and values"
    if origin is Callable or annotation is Callable:
        return "a callable"
    words = PLAIN.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"
    bounds = _bounds(items) if annotation in (int, float) else ""
    return f"{words} {bounds}" if bounds else words
