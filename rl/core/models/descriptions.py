"""Networks from what policy files say of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.configs.trust import may_import
from rl.core.models.plain import KINDS, PlainNetwork, plain_obstacles
from rl.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["check_named_encoder", "knows_module", "network_of", "register_module"]

_builders: dict[str, Callable[[Mapping[str, Any]], Module]] = {}


def network_of(name: str, description: Mapping[str, Any]) -> Module | PlainNetwork:
    """The network of a description under a name that is known; its weights count for nothing.

    Raises `CheckpointError` when the description is of something else.
    """
    if name not in KINDS:
        return _builders[name](description)
    kind = KINDS[name]
    spec = kind.spec.from_json(description)
    if kind.actions is not None and not isinstance(spec.action_space, kind.actions):
        what = kind.module.partition(":")[2]
        raise CheckpointError(f"not the description of a network: {what} cannot act there")
    if not any(plain_obstacles(spec)):
        return PlainNetwork(name, spec)
    place, _, attribute = kind.module.partition(":")
    module: Module = getattr(importlib.import_module(place), attribute)(spec)
    return module


def register_module(name: str, build: Callable[[Mapping[str, Any]], Module]) -> None:
    """Lets policy files whose module describes itself as `{"module": name, ...}` be loaded.

    Files name modules through this registry only: a file cannot make the program import anything.
    """
    if name in KINDS or _builders.get(name, build) is not build:
        raise UsageError(f"register_module: {name!r} is taken; choose another name")
    _builders[name] = build


def knows_module(name: object) -> bool:
    """Whether this program has networks of this name."""
    return isinstance(name, str) and (name in KINDS or name in _builders)


def check_named_encoder(
    description: Mapping[str, Any], imports: Collection[str], directory: Path
) -> None:
    """Refuses to import a module because a file says so: that would run its code.

    Raises `UsageError` where the description of a network in a policy file does that unallowed.
    """
    reference = description.get("encoder")
    if not isinstance(reference, str) or may_import(reference, imports):
        return
    module = reference.partition(":")[0]
    raise UsageError(
        f"{directory}/policy.json: its encoder is {reference!r}, and a file does not get to import"
        f" a module by itself: that would run its code; if you trust {module}, import it first, or"
        f" call Policy.load(..., imports=[{module!r}])"
    )
