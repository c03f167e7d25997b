"""CartPole that says where it runs, counts all its steps, and stops where a test wants it.

`Counted-v0` is told a directory by the environment variable COUNTED_IN of its process; without one
it is CartPole-v1.
"""

import importlib
import os
import time
from pathlib import Path
from typing import Any

import gymnasium

VARIABLE = "COUNTED_IN"


class Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Writes one byte a step to the file `steps`.

    While there is a file `hold` with a number, it waits after so many steps of its life, or more,
    and leaves the name of its node in `held-PID`.
    """

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        told = os.environ.get(VARIABLE)
        self.directory = Path(told) if told else None
        self.life = 0
        if self.directory is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self.file = os.open(self.directory / "steps", flags, 0o600)

    def step(self, action: Any) -> Any:
        if self.directory is not None:
            self.life += 1
            os.write(self.file, b".")
            if self._held(self.directory):
                self._wait(self.directory)
        return super().step(action)

    def close(self) -> None:
        super().close()
        if self.directory is not None:
            os.close(self.file)
            self.directory = None

    def _held(self, directory: Path) -> bool:
        try:
            return self.life >= int((directory / "hold").read_text())
        except FileNotFoundError:
            return False

    def _wait(self, directory: Path) -> None:
        ray = importlib.import_module("ray")
        note = directory / f"held-{os.getpid()}"
        note.with_suffix(".new").write_text(ray.get_runtime_context().get_node_id())
        note.with_suffix(".new").rename(note)
        while self._held(directory):
            time.sleep(0.01)


gymnasium.register("Counted-v0", Counted, max_episode_steps=500)


def steps_taken(directory: Path) -> int:
    """Of all environments in all processes, those that are gone among them."""
    return (directory / "steps").stat().st_size


def hold(directory: Path, at: int) -> None:
    """Stops every environment that has taken so many steps."""
    for note in directory.glob("held-*"):
        note.unlink()
    (directory / "hold.new").write_text(str(at))
    (directory / "hold.new").rename(directory / "hold")


def release(directory: Path) -> None:
    """Lets them go on."""
    (directory / "hold").unlink()


def held(directory: Path) -> dict[int, str]:
    """Of every process that waits: its id, and its node."""
    notes = directory.glob("held-*[0-9]")
    return {int(note.name.partition("-")[2]): note.read_text() for note in notes}
