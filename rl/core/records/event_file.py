"""TensorBoard event files, written in place with TensorBoard's own messages; no torch is needed.

Written without a thread: the driver may fork, and a full disk is seen where it happens.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

from rl.core.records.files import AppendFile
from rl.core.records.framing import framed

__all__ = ["EventFile", "event_files", "scalar", "text", "video"]

_FORMAT = "brain.Event:2"  # TensorBoard purges restarted runs from this version on
_STAMP = re.compile(r"events\.out\.tfevents\.(\d+)\.")


def event_files(directory: Path) -> list[Path]:
    """The event files of a directory, in the order TensorBoard reads them."""
    return sorted(path for path in directory.iterdir() if _STAMP.match(path.name))


class EventFile:
    """A new event file in `directory`; every method raises `OSError` when the disk refuses."""

    def __init__(self, directory: Path, *, purge_from: int | None = None) -> None:
        """With `purge_from`, TensorBoard forgets earlier files' points from that step on."""
        name = f"events.out.tfevents.{_stamp(directory):010d}.{socket.gethostname()}"
        self._file = AppendFile(directory / name)
        self._add(Event(wall_time=time.time(), file_version=_FORMAT))
        if purge_from is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=purge_from, session_log=start))
        self.flush()

    def add(self, step: int, *values: Summary.Value) -> None:
        """Adds summaries at an environment step; they reach the file with the next `flush`."""
        summary = Summary(value=values)
        self._add(Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Event) -> None:
        self._file.append(framed(event.SerializeToString()))

    def flush(self) -> None:
        """Hands what is pending to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()


def scalar(tag: str, value: float) -> Summary.Value:
    """One point of a curve."""
    return Summary.Value(tag=tag, simple_value=value)


def video(tag: str, gif: bytes, height: int, width: int) -> Summary.Value:
    """A GIF for the Images page, which shows it moving."""
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    return Summary.Value(tag=tag, image=image)


def text(tag: str, markdown: str) -> Summary.Value:
    """Markdown for the Text page."""
    return string_value(f"{tag}/text_summary", "text", markdown.encode())


def string_value(tag: str, plugin: str, content: bytes) -> Summary.Value:
    """A string that one of TensorBoard's plugins reads."""
    return Summary.Value(
        tag=tag,
        metadata=plugin_metadata(plugin),
        tensor=TensorProto(
            dtype="DT_STRING",
            string_val=[content],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        ),
    )


def plugin_metadata(plugin: str, content: bytes = b"") -> SummaryMetadata:
    """Says which plugin a summary is for."""
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return SummaryMetadata(plugin_data=data)


def _stamp(directory: Path) -> int:
    """Now in seconds, but later than any file there: TensorBoard reads files in this order."""
    found = (_STAMP.match(path.name) for path in event_files(directory))
    stamps = [int(match[1]) for match in found if match]
    return max([int(time.time()), *(stamp + 1 for stamp in stamps)])
