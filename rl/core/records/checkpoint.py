"""A checkpoint is a directory that is either whole or not there, and holds data, never code.

    step_000100000/
      meta.json            what the writer says of it
      <name>.safetensors   arrays; one that an earlier checkpoint had already is a link to it
      <name>.json, ...     whatever else was given, byte for byte
      manifest.json        written last: format, version, size and SHA-256 of every file

It is written beside its place, synced, and renamed. Reading checks every size and sum before
anything is looked at, follows no link inside the directory, and unpickles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from rl.core.records.files import sync_directory, sync_file, temporary_sibling, write_durably
from rl.core.records.frozen import Frozen, StoredFile
from rl.errors import CheckpointError, StorageError, UsageError
from rl.version import __version__

__all__ = [
    "FORMAT",
    "Arrays",
    "Checkpoint",
    "Content",
    "Json",
    "read_checkpoint",
    "sealed",
    "write_checkpoint",
]

FORMAT = 2
"""2: the manifest ends with a sum of itself, and a learner counts the updates it skipped."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Arrays: TypeAlias = Mapping[str, "NDArray[np.generic]"]
Content: TypeAlias = bytes | Arrays | Frozen
"""Of a file: bytes as they are, arrays, or arrays that no later checkpoint has otherwise."""

_KIND = "rl-platform checkpoint"
_MANIFEST = "manifest.json"
_META = "meta.json"
_ARRAYS = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,3}")
_SEAL = "sha256"
_NO_SUM = "0" * 64
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_TEXT_BYTES = 256 << 20
_MAX_COPIED_BYTES = 16 << 20  # larger arrays go to the file as they lie
_DTYPES = frozenset("?bhilqBHILQefd")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have all been verified."""

    path: Path
    meta: Mapping[str, Json]
    """What was given to `write_checkpoint`."""
    files: Mapping[str, int]
    """Every file that was given, with its size in bytes."""
    sums: Mapping[str, str]
    """Their SHA-256 sums."""

    def frozen(self, name: str) -> Frozen:
        """One `.safetensors` file, for later checkpoints to share."""
        return Frozen(file=StoredFile.of(self._file(name), self.sums[name]))

    def arrays(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The arrays of one `.safetensors` file, the caller's own to write to."""
        try:
            return cast("dict[str, NDArray[np.generic]]", load_file(self._file(name)))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / name} holds no arrays: {error}") from error

    def text(self, name: str) -> str:
        """The content of one file, as UTF-8."""
        path = self._file(name)
        if self.files[name] > _MAX_TEXT_BYTES:
            raise CheckpointError(f"{path} has {self.files[name]} bytes: too large for text")
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read as text: {error}") from error

    def json(self, name: str) -> Json:
        """The content of one JSON file."""
        return _parse(self.path / name, self.text(name))

    def _file(self, name: str) -> Path:
        if name not in self.files:
            known = ", ".join(sorted(self.files))
            raise CheckpointError(f"{self.path} has no file {name}; it has {known}")
        return self.path / name


def write_checkpoint(
    directory: Path, files: Mapping[str, Content], meta: Mapping[str, Json]
) -> None:
    """Writes a checkpoint at `directory`, which must not exist.

    `files` maps a name, at most four parts separated by `/`, to its content: bytes, or arrays where
    the name ends in `.safetensors` (numeric or bool, any shape), `Frozen` ones if an earlier
    checkpoint may have them: they are linked instead of written. Raises `UsageError` when the
    directory is there, `StorageError` when the disk refuses; then nothing is left behind.
    """
    _check_request(files)
    if directory.is_symlink() or directory.exists():
        raise UsageError(
            f"{directory} exists: a checkpoint never overwrites anything; give another path"
        )
    temporary = temporary_sibling(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            sums = _fill(temporary, {**files, _META: _json_bytes(meta)})
            temporary.rename(directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for name, content in files.items():
            if isinstance(content, Frozen):
                content.written(StoredFile.of(directory / name, sums[name]))
        sync_directory(directory.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(_cannot_write(directory, error)) from error


def read_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
    """Verifies a checkpoint. Raises `CheckpointError`: damaged, incomplete, foreign or newer.

    `directory` itself may be a link, such as `latest`; nothing inside may be.
    """
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}: there is no such directory")
    path = path.resolve()
    listed = _read_manifest(path)
    found = _walk(path)
    for name in sorted(listed.keys() - found):
        raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing")
    for name in sorted(found - listed.keys() - {_MANIFEST}):
        raise CheckpointError(f"checkpoint {path} is foreign: {name} is not in its manifest")
    for name, entry in listed.items():
        _verify(path / name, entry)
    meta = _parse(path / _META, (path / _META).read_text("utf-8"))
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path / _META} is not a JSON object")
    sizes = {name: entry.size for name, entry in listed.items() if name != _META}
    sums = {name: entry.sha256 for name, entry in listed.items()}
    return Checkpoint(path=path, meta=meta, files=sizes, sums=sums)


@dataclass(frozen=True)
class _Entry:
    size: int
    sha256: str


def _check_request(files: Mapping[str, Content]) -> None:
    """Asserts our own rules: a checkpoint that cannot be read back is a bug of the writer."""
    for name, content in files.items():
        assert _NAME.fullmatch(name), f"{name!r} cannot name a file of a checkpoint"
        assert name not in (_MANIFEST, _META), f"{name} is the checkpoint's own"
        assert isinstance(content, bytes) or name.endswith(_ARRAYS), (
            f"{name}: arrays go into {_ARRAYS} files"
        )


def _fill(directory: Path, files: Mapping[str, Content]) -> dict[str, str]:
    """Writes files and manifest; returns the sum of each file."""
    entries = {}
    directories = {directory}
    for name, content in files.items():
        path = directory / name
        if path.parent not in directories:
            path.parent.mkdir(parents=True, exist_ok=True)
            directories.update(parent for parent in path.parents if directory in parent.parents)
        size, digest = _put(path, content)
        entries[name] = {"size": size, "sha256": digest}
    manifest = {"kind": _KIND, "format": FORMAT, "version": __version__, "files": entries}
    write_durably(directory / _MANIFEST, sealed(manifest))
    for parent in directories:
        sync_directory(parent)
    return {name: str(entry["sha256"]) for name, entry in entries.items()}


def _put(path: Path, content: Content) -> tuple[int, str]:
    """Writes one file; returns its size and sum."""
    if isinstance(content, Frozen) and content.file is not None:
        content.file.share(path)
        return content.file.size, content.file.sha256
    arrays = content.arrays if isinstance(content, Frozen) else content
    assert arrays is not None, f"{path} has no content"
    if not isinstance(arrays, bytes):
        arrays = _storable(arrays)
        if sum(array.nbytes for array in arrays.values()) > _MAX_COPIED_BYTES:
            save_file(arrays, path)
            sync_file(path)
            return path.stat().st_size, _sum(path)
        arrays = save(arrays)
    write_durably(path, arrays)
    return len(arrays), hashlib.sha256(arrays).hexdigest()


def _storable(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    storable = {}
    for name, array in arrays.items():
        if array.dtype.char not in _DTYPES:
            raise TypeError(
                f"array {name} has dtype {array.dtype}: only numbers and bools are kept"
            )
        # safetensors writes the buffer as it lies: rows in order, little-endian.
        native = array.dtype.newbyteorder("<")
        storable[name] = np.asarray(array, dtype=native, order="C")
    return storable


def _sum(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor that followed no link
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_write(directory: Path, error: Exception) -> str:
    near = directory.parent
    while not near.exists() and near != near.parent:
        near = near.parent
    free = shutil.disk_usage(near).free
    return f"cannot write checkpoint {directory}: {error}; {free:,} bytes are free there"


def sealed(manifest: Mapping[str, object]) -> bytes:
    """A manifest as a file, which ends with the sum of itself, zeros in the place of the sum."""
    open_ = _json_bytes({**manifest, _SEAL: _NO_SUM})
    return _with_sum(open_, hashlib.sha256(open_).hexdigest())


def _with_sum(manifest: bytes, digest: str) -> bytes:
    """The same with another sum at its end, if it ends with one."""
    place = len(manifest) - len(_NO_SUM) - len('"\n}')
    return manifest[:place] + digest.encode() + manifest[place + len(_NO_SUM) :]


def _check_seal(file: Path, content: bytes, manifest: Mapping[str, Json]) -> None:
    expected = hashlib.sha256(_with_sum(content, _NO_SUM)).hexdigest()
    if manifest.get(_SEAL) != expected:
        raise CheckpointError(f"{file} is damaged: it does not have the SHA-256 it names")


def _read_manifest(path: Path) -> dict[str, _Entry]:
    """The files a checkpoint lists, with every name and number checked."""
    file = path / _MANIFEST
    if not file.is_file() or file.is_symlink():
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {_MANIFEST}, which is written last"
        )
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{file} is larger than {_MAX_MANIFEST_BYTES} bytes")
    content = file.read_bytes()
    manifest = _parse(file, content)
    if not isinstance(manifest, dict) or manifest.get("kind") != _KIND:
        raise CheckpointError(f"{path} is not a checkpoint of this platform: see {file}")
    number = manifest.get("format")
    if number == FORMAT or _SEAL in manifest:  # the first manifests had none
        _check_seal(file, content, manifest)
    if not isinstance(number, int) or number < 1:
        raise CheckpointError(f"{file} is damaged: its format is {number!r}")
    if number != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {number}, written by version "
            f"{manifest.get('version')}; this is version {__version__}, which reads format "
            f"{FORMAT}: "
            + (
                "upgrade rl-platform"
                if number > FORMAT
                else "go on with the version that wrote it, or train anew from its config.yaml"
            )
        )
    return _entries(file, manifest.get("files"))


def _entries(file: Path, listing: Json) -> dict[str, _Entry]:
    if not isinstance(listing, dict) or _META not in listing:
        raise CheckpointError(f"{file} is damaged: it does not list {_META}")
    entries = {}
    for name, entry in listing.items():
        match entry:
            case {"size": int(size), "sha256": str(digest)} if _NAME.fullmatch(name) and size >= 0:
                entries[name] = _Entry(size, digest)
            case _:
                raise CheckpointError(f"{file} is damaged or hostile at {name!r}: {entry!r}")
    return entries


def _walk(path: Path) -> set[str]:
    """Every file below, by its name relative to `path`; refuses what is no plain file."""
    found = set()
    for parent, directories, names in os.walk(path):
        for name in [*directories, *names]:
            entry = Path(parent, name)
            mode = entry.lstat().st_mode
            if stat.S_ISREG(mode):
                found.add(entry.relative_to(path).as_posix())
            elif not stat.S_ISDIR(mode):
                raise CheckpointError(f"{entry} is neither a file nor a directory: not followed")
    return found


def _verify(path: Path, entry: _Entry) -> None:
    size = path.lstat().st_size
    if size != entry.size:
        raise CheckpointError(
            f"checkpoint file {path} is damaged: it has {size} bytes, "
            f"its manifest says {entry.size}"
        )
    actual = _sum(path)
    if actual != entry.sha256:
        raise CheckpointError(
            f"checkpoint file {path} is damaged: its SHA-256 is {actual}, "
            f"its manifest says {entry.sha256}"
        )


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _parse(path: Path, content: str | bytes) -> Json:
    try:
        return cast("Json", json.loads(content))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: no JSON ({error})") from error
