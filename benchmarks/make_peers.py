"""Makes the Python environments that the comparisons run other libraries in.

One virtual environment each, outside of the repository: Stable-Baselines3, and with --rllib Ray's
RLlib. What both sides use, such as torch and the environments, has the versions of
`constraints.txt`. An environment that is whole is left as it is.

    python benchmarks/make_peers.py [PATH] [--rllib]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from _pairs import PEERS, ROOT, python_of

TORCH = "torch==2.13.0"
CONSTRAINED = ("-c", str(ROOT / "constraints.txt"))
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "sb3": (
        *CONSTRAINED,
        TORCH,
        "stable-baselines3==2.9.2",
        "ale-py",
        "opencv-python-headless",
        "gymnasium[mujoco]",
    ),
    # RLlib asks for a Gymnasium of its own choice.
    "rllib": (TORCH, "ray[rllib]==2.60.0", "gymnasium[classic-control]"),
}
"""Peer -> what pip installs."""
MODULES = {"sb3": ("stable_baselines3", "ale_py", "mujoco", "cv2"), "rllib": ("ray.rllib",)}
"""Peer -> what must be importable then."""

Call = Callable[[Sequence[str]], object]


def call(command: Sequence[str]) -> None:
    """Runs a command; raises `CalledProcessError` when it fails."""
    subprocess.run(command, check=True)


def make(peer: str, directory: Path, run: Call = call) -> Path:
    """Makes one environment if it is not there; returns its Python."""
    python, wanted = python_of(peer, directory), " ".join(REQUIREMENTS[peer])
    stamp = directory / peer / "installed.txt"
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return python
    stamp.unlink(missing_ok=True)
    if not python.exists():
        run([sys.executable, "-m", "venv", str(directory / peer)])
    quiet = ("--quiet", "--disable-pip-version-check")
    run([str(python), "-m", "pip", "install", *quiet, *REQUIREMENTS[peer]])
    run([str(python), "-c", "import " + ", ".join(MODULES[peer])])
    stamp.write_text(wanted, "utf-8")
    return python


def main() -> int:
    """Makes them; returns the exit code."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("path", nargs="?", type=Path, default=PEERS, help="(default: %(default)s)")
    flags.add_argument("--rllib", action="store_true", help="RLlib, too")
    options = flags.parse_args()
    for peer in ("sb3", *(["rllib"] if options.rllib else [])):
        try:
            print(f"{peer}: {make(peer, options.path.expanduser().absolute())}")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"error: {peer}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
