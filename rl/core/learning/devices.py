"""On which device a learner computes, and runners act."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rl.configs.algorithm_config import AlgorithmConfig, LearnersConfig
from rl.core.lazy import torch
from rl.errors import Problem, UsageError

if TYPE_CHECKING:
    from torch import device as Device

__all__ = [
    "acting_device",
    "choose_device",
    "device_problems",
    "devices_of_ranks",
    "learns_there",
    "means_cpu",
]


def means_cpu(name: str) -> bool:
    """Whether a device's name comes to the CPU here; torch is asked only if there may be a GPU.

    Raises:
        UsageError: A GPU was asked for that is not there.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return True
    return choose_device(name).type == "cpu"


def _may_have_gpu() -> bool:
    """Whether torch could find one: not on Linux without a driver of NVIDIA's or AMD's."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def choose_device(name: str) -> Device:
    """The device of `learners.device`; `auto` is cuda where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    missing = _missing(name)
    if missing:
        raise UsageError(f"learners.device is {missing}")
    return torch.device(name)


def _missing(name: str) -> str | None:
    """What is said of a GPU that torch does not see here."""
    if not name.startswith("cuda"):
        return None
    if not torch.cuda.is_available():
        return f"{name!r}, but torch sees no GPU here; use 'cpu' or 'auto'"
    count = torch.cuda.device_count()
    if (torch.device(name).index or 0) >= count:
        return f"{name!r}, but torch sees {count} GPUs here, numbered from 0"
    return None


def acting_device(config: AlgorithmConfig) -> Device | None:
    """Where runners choose actions by `env_runners.device`; None: on the CPU, as they are used to.

    On a cluster `auto` is the CPU: what GPUs there are where the runners go is not known here.
    """
    name = config.env_runners.device
    if config.runtime.engine == "ray" or means_cpu(name):
        return None
    return choose_device(name)


def learns_there(config: AlgorithmConfig, engine: str, acting: Device) -> bool:
    """Whether the learner is in the process of the runners, and on the device that they act on.

    Args:
        config: Of the run.
        engine: That the run lives on.
        acting: The device of the runners.
    """
    if engine != "inline" or config.learners.num > 0:
        return False
    learning = choose_device(config.learners.device)
    return (learning.type, learning.index or 0) == (acting.type, acting.index or 0)


def device_problems(config: AlgorithmConfig) -> Iterator[Problem]:
    """Yields a problem where runners or learners want GPUs that this machine does not have."""
    missing = None if config.runtime.engine == "ray" else _missing(config.env_runners.device)
    if missing:
        yield Problem("env_runners.device", f"is {missing}")
    settings = config.learners
    if settings.num > 1 and settings.device == "cuda" and config.runtime.engine != "ray":
        there = torch.cuda.device_count()
        if there < settings.num:
            yield Problem(
                "learners.num",
                f"{settings.num} learners on cuda need a GPU each, but torch sees {there} here;"
                f" write learners.num {there} or less, or learners.device cpu",
            )


def devices_of_ranks(settings: LearnersConfig, clustered: bool) -> list[str]:
    """The device of each of `learners.num` learners: a GPU each, or the CPU for all.

    `auto` takes GPUs where there are enough for all on this machine.

    Args:
        settings: Of the run.
        clustered: Whether each finds itself with one GPU, which a cluster has reserved for it.
    """
    if settings.num == 1:
        return [settings.device]
    wants = settings.device
    if wants == "auto":
        wants = "cuda" if torch.cuda.device_count() >= settings.num else "cpu"
    if clustered:
        return [wants] * settings.num
    return [f"cuda:{rank}" if wants == "cuda" else wants for rank in range(settings.num)]
