"""On which device a learner computes."""

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

__all__ = ["choose_device", "device_problems", "devices_of_ranks", "means_cpu"]


def means_cpu(name: str) -> bool:
    """Whether `learners.device` comes to the CPU here; torch is asked only if there may be a GPU.

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
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"learners.device is {name!r}, but torch sees no GPU here; use 'cpu' or 'auto'"
        )
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"learners.device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs here,"
            " numbered from 0"
        )
    return device


def device_problems(config: AlgorithmConfig) -> Iterator[Problem]:
    """Yields a problem where several learners want more GPUs than this machine has."""
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
