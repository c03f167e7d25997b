"""The compiled functions of the C files here, as `ctypes` sees them, and whether they can be had.

They are compiled where the package is installed; where there is no C compiler, or the processor is
of another kind, everything runs without them, on numpy.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "LIBRARY",
    "Layer",
    "Pass",
    "address",
    "close",
    "kernels",
    "kernels_obstacle",
    "long_calls",
]

LIBRARY = Path(__file__).with_name("kernels.so")
"""Where installing the package leaves the compiled file."""

LibraryT = TypeVar("LibraryT", bound=ctypes.CDLL)

_POINTER, _INTEGER, _BYTE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char
_KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_int}
_KINDS |= {"r": ctypes.c_float, "d": ctypes.c_double}
_ARGUMENTS = {
    "sources": "",
    "supported": "",
    "set_threads": "f",
    "pack_layers": "pi",
    "forward": "ppi",
    "backward": "ppi pii ff",
    "act": "pii pi pf",
    "adam": "pi pppp",
    "follow": "ipp r",
    "normalize": "ip",
    "ppo_gradient": "pppp",
    "sample_categories": "ii pi pi pp",
    "choose_largest": "ii pi pi r p",
    "dqn_targets": "ii pi pi pp p",
    "dqn_slopes": "ii pi pp p ppp",
    "sac_critics": "ppp d p",
    "sac_policy": "ppp d p",
    "convolve_images": "p",
    "convolve_back": "p",
    "replay_put": "pi pppp",
    "replay_draw": "pi pp",
    "replay_take": "pip r ppppp",
}
"""What each takes: pointers, integers of 64 bits, flags, reals, doubles; a blank means nothing."""
_ANSWER = {
    *("supported", "set_threads", "act", "ppo_gradient"),
    *("convolve_images", "convolve_back"),
    *("dqn_slopes", "replay_put", "replay_take"),
}
"""Which give an int."""
_STALE = "the kernels were compiled from other C files: install the package again, or make kernels"


class Layer(ctypes.Structure):
    """`layer` of `passes.c`, which says what each field is."""

    _fields_ = [
        ("weight", _POINTER),
        ("bias", _POINTER),
        ("weight_gradient", _POINTER),
        ("bias_gradient", _POINTER),
        ("packed", _POINTER),
        ("packed_back", _POINTER),
        ("packed_side", _POINTER),
        ("output", _POINTER),
        ("kept", _POINTER),
        ("gradient", _POINTER),
        ("inputs", _INTEGER),
        ("outputs", _INTEGER),
        ("out_step", _INTEGER),
        ("in_step", _INTEGER),
        ("output_stride", _INTEGER),
        ("activation", _INTEGER),
    ]


class Pass(ctypes.Structure):
    """`pass` of `passes.c`."""

    _fields_ = [
        ("layers", _POINTER),
        ("top", _POINTER),
        ("depth", _INTEGER),
        ("rows", _INTEGER),
    ]


@functools.cache
def kernels() -> ctypes.PyDLL | None:
    """The compiled functions, or None where `kernels_obstacle` has a reason."""
    return None if kernels_obstacle() else _load()


@functools.cache
def kernels_obstacle() -> str | None:
    """Why the compiled passes cannot be had, in words; None: they can."""
    if not LIBRARY.exists():
        return "the package was installed without a C compiler; install it again where there is one"
    try:
        library = _load()
    except OSError as error:
        return f"{LIBRARY.name} does not load ({error})"
    except AttributeError:
        return _STALE
    if library.sources().decode() != _hash_of_sources():
        return _STALE
    return None if library.supported() else "this processor lacks AVX2 or FMA"


def _hash_of_sources() -> str:
    """As `hatch_build.py` takes it when it compiles."""
    files = sorted(LIBRARY.parent.glob("*.[ch]"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@functools.cache
def _load() -> ctypes.PyDLL:
    # Calls are short: to let go of the interpreter for each would cost more than it gives.
    return _described(ctypes.PyDLL(str(LIBRARY)))


@functools.cache
def long_calls() -> ctypes.CDLL:
    """The same functions, for calls of milliseconds: other threads of Python go on meanwhile."""
    return _described(ctypes.CDLL(str(LIBRARY)))


def _described(library: LibraryT) -> LibraryT:
    for name, kinds in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = tuple(_KINDS[kind] for kind in kinds.replace(" ", ""))
        function.restype = ctypes.c_int if name in _ANSWER else None
    library.sources.restype = ctypes.c_char_p
    return library


def close(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, or a copy of it where its numbers do not lie side by side."""
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's first element lies. Whoever hands it on keeps the array alive."""
    try:
        return ctypes.addressof(_BYTE.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # not to be written, not contiguous, or empty
        found: int = array.__array_interface__["data"][0]  # takes four times as long
        return found
