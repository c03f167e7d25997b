"""Where a run ran: versions, commit, hardware. No environment variables: they hold secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rl.version import __version__

__all__ = ["describe_machine"]

_PACKAGES = ("torch", "numpy", "gymnasium", "tensorboard", "ray")


def describe_machine(source: Path | None = None) -> Mapping[str, object]:
    """What the numbers of a run may depend on besides its config, ready for JSON.

    `source` is a directory of the code that ran; its git commit is told if it is in a work tree.
    """
    return {
        "versions": {"python": platform.python_version(), "rl": __version__, **_versions()},
        "git": _git(source or Path.cwd()),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            # Asked of the installed metadata: importing torch for its version would take a second.
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(directory: Path) -> dict[str, object] | None:
    """Commit, and whether tracked files differ from it; None outside a work tree or without git."""
    commit = _ask_git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _ask_git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": changes != ""}


def _ask_git(directory: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
