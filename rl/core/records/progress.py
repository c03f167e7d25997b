"""`progress.csv`: a row for every call of `log`, a column for every metric ever logged."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from rl.core.records.files import AppendFile, write_atomically
from rl.core.records.guard import WriteGuard

__all__ = ["STEPS_COLUMN", "ProgressTable", "cut_rows", "keep_rows"]

STEPS_COLUMN = "time/total_timesteps"


class ProgressTable:
    """Appends rows; a metric not seen before adds a column, empty in the rows above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.guard = WriteGuard(path.name)
        self._columns: list[str] = []
        self._file: AppendFile | None = None
        self._pending = 0
        self.rows = 0
        """Rows that the file holds."""
        with self.guard.writing():
            self.look_again()

    def look_again(self) -> None:
        """Takes columns and rows from the file, which somebody else has changed."""
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                table = csv.reader(file)
                self._columns = next(table, [])
                self.rows = sum(1 for _ in table)

    def append(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Adds a row; it reaches the file with the next `flush`."""
        row: dict[str, float] = {STEPS_COLUMN: env_steps}
        row |= {name: value for name, value in metrics.items() if name != STEPS_COLUMN}
        new = [name for name in row if name not in self._columns]
        with self.guard.writing(1):
            if new:
                self._grow(new)
            if self._file is None:
                self._file = AppendFile(self.path)
            self._file.append(
                _line([repr(row[name]) if name in row else "" for name in self._columns])
            )
            self._pending += 1

    def _grow(self, new: list[str]) -> None:
        """Writes the table anew with more columns."""
        self.close()
        columns = self._columns + new
        lines = [_line(columns)]
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                next(rows, None)
                lines += [_line(row + [""] * (len(columns) - len(row))) for row in rows]
        write_atomically(self.path, b"".join(lines))
        self._columns = columns

    def flush(self) -> None:
        """Hands the rows to the operating system."""
        if self._file is not None:
            with self.guard.writing(self._pending):
                self._file.flush()
                self.rows += self._pending
        self._pending = 0

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def cut_rows(path: Path, column: str, env_steps: int) -> int:
    """Cuts a table of growing steps after `env_steps`, and a torn last row; returns rows removed.

    Cut in place, so that a writer that appends to the file goes on rightly. Raises `OSError`.
    """
    if not path.exists():
        return 0
    header, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    names = next(csv.reader([header.decode("utf-8", "replace")]), [])
    if column not in names:
        return 0
    place, kept = names.index(column), len(header)
    for number, line in enumerate(lines):
        if not _is_within(line, place, env_steps):
            os.truncate(path, kept)
            return len(lines) - number
        kept += len(line)
    return 0


def keep_rows(path: Path, rows: int) -> None:
    """Cuts a table after its first `rows` rows. Raises `OSError`."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        os.truncate(path, sum(len(line) for line in lines[: rows + 1]))


def _is_within(line: bytes, place: int, env_steps: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return int(next(csv.reader([line.decode()]))[place]) <= env_steps
    except (ValueError, IndexError, StopIteration):
        return False


def _line(cells: list[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()
