"""Classes by name, `package.module:Class`: found, named, and told where they are not there."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from rl.configs.near import near_name
from rl.errors import UsageError

__all__ = ["UserImportError", "is_importable", "load_named", "name_of"]


class UserImportError(UsageError):
    """The module of a user's class raised; the cause is its own error."""

    shows_cause = True


def name_of(named: str | type | None) -> str | None:
    """What a file calls a class."""
    return f"{named.__module__}:{named.__qualname__}" if isinstance(named, type) else named


def is_importable(named: type) -> bool:
    """Whether any process would find the class by its name."""
    if named.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(named.__module__)
    for name in named.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is named


def load_named(what: str, reference: str) -> object:
    """What `package.module:Name` stands for.

    Args:
        what: What messages call it: "the algorithm 'x:Y'" begins with "the algorithm".
        reference: Where it is.

    Raises:
        UsageError: There is no such module, or no such name in it.
        UserImportError: The module raised.
    """
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise UsageError(f"{what} {reference!r}: one of your own is named package.module:Class")
    if "<locals>" in attribute:
        raise UsageError(
            f"{what} {reference!r} was defined inside a function, where no other program finds it;"
            " put the class at the top of a module"
        )
    _import(what, reference, module)
    found: object = sys.modules[module]
    for name in attribute.split("."):
        owner, found = found, getattr(found, name, None)
        if found is None:
            meant = near_name(name, [key for key in vars(owner) if not key.startswith("_")])
            mend = f"; did you mean {module}:{meant}?" if meant else ""
            raise UsageError(f"{what} {reference!r}: the module {module} has no {name!r}{mend}")
    return found


def _import(what: str, reference: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The module itself is missing, or something that it imports.
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UsageError(
                f"{what} {reference!r} names the module {error.name}, which Python does not find;"
                f" it looked in {sys.path[0] or '.'} and the installed packages"
            ) from None
        raise UserImportError(
            f"{what} {reference!r} cannot be imported: {module} needs the module {error.name},"
            " which is not installed"
        ) from error
    except Exception as error:
        raise UserImportError(
            f"{what} {reference!r} cannot be imported: {module} raised {type(error).__name__}:"
            f" {error}"
        ) from error
