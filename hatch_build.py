"""Compiles `rl/core/kernels` while the package is built or installed, where there is a C compiler.

Without one, or on another processor, the package works on numpy alone: `learners.engine` says so.
After a change of the C files: `python hatch_build.py`, or `make kernels`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path(__file__).resolve().parent / "rl" / "core" / "kernels"
LIBRARY = KERNELS / "kernels.so"
FLAGS = ("-O3", "-fno-math-errno", "-mavx2", "-mfma", "-Wall", "-Wextra", "-shared", "-fPIC")


class KernelsHook(BuildHookInterface[Any]):
    """Adds the compiled kernels to a wheel, or puts them beside their sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel or an editable install is put together."""
        reason = compile_kernels()
        if reason:
            self.app.display_warning(f"no compiled kernels: {reason}")
            return
        build_data["artifacts"].append(LIBRARY.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{machine}"  # nothing of it depends on the interpreter


def compile_kernels() -> str | None:
    """Leaves `kernels.so` beside its sources, whole or not at all; returns why it could not."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"they are written for x86-64, not {platform.machine()}"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    sources = sorted(KERNELS.glob("*.c"))
    # So that files of another version are not taken for these; `library.py` compares.
    files = sorted(KERNELS.glob("*.[ch]"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    with tempfile.TemporaryDirectory(dir=KERNELS) as folder:
        fresh = Path(folder) / LIBRARY.name
        said = f'-DSOURCES="{version}"'
        try:
            subprocess.run(
                [*compiler, *FLAGS, said, "-o", str(fresh), *sources, "-lm", "-pthread"],
                check=True,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            return f"there is no C compiler {compiler[0]!r}; CC names another"
        except subprocess.CalledProcessError as error:
            return f"{compiler[0]} failed: {error.stderr.strip()}"
        fresh.replace(LIBRARY)
    return None


if __name__ == "__main__":
    sys.exit(compile_kernels())
