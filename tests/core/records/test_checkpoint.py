import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rl.core.records import checkpoint as module
from rl.core.records.checkpoint import FORMAT, read_checkpoint, write_checkpoint
from rl.errors import CheckpointError, StorageError, UsageError

WEIGHTS = {
    "layer/weight": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "every_second": np.arange(10, dtype=np.float64)[::2],
    "scalar": np.array(1.5, np.float16),
    "empty": np.zeros((0, 3), np.int64),
    "counter": np.array([2**63 + 1], np.uint64),
    "mask": np.array([True, False]),
    "swapped": np.array([1, 2], ">i4"),
    "nan": np.array([np.nan, -0.0, np.inf], np.float32),
}
META = {"env_steps": 100, "exact": 0.1 + 0.2, "unknown": None, "list": [1, "zwei", "三"]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    files = {
        "weights.safetensors": WEIGHTS,
        "config.yaml": b"algo: ppo\n",
        "runners/0.json": json.dumps({"seed": [1, 2]}).encode(),
    }
    write_checkpoint(path, files, META)
    return path


def test_everything_comes_back_as_it_was(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    assert checkpoint.meta == META
    assert checkpoint.text("config.yaml") == "algo: ppo\n"
    assert checkpoint.json("runners/0.json") == {"seed": [1, 2]}
    assert set(checkpoint.files) == {"weights.safetensors", "config.yaml", "runners/0.json"}
    arrays = checkpoint.arrays("weights.safetensors")
    assert arrays.keys() == WEIGHTS.keys()
    for name, array in arrays.items():
        assert array.dtype == WEIGHTS[name].dtype.newbyteorder("=")
        np.testing.assert_array_equal(array, WEIGHTS[name])
    assert np.signbit(arrays["nan"][1])
    arrays["counter"][0] = 0  # the caller's own


def test_the_same_content_gives_the_same_bytes(saved: Path) -> None:
    again = saved.with_name("again")
    write_checkpoint(
        again,
        {
            "weights.safetensors": WEIGHTS,
            "config.yaml": b"algo: ppo\n",
            "runners/0.json": (saved / "runners" / "0.json").read_bytes(),
        },
        META,
    )
    for name in ("manifest.json", "meta.json", "weights.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_a_checkpoint_is_never_overwritten(saved: Path) -> None:
    before = (saved / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="never overwrites"):
        write_checkpoint(saved, {}, {})
    assert (saved / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../b", "a//b", ".hidden", "", "a\0b", "x" * 101, "meta.json"]
)
def test_no_name_leaves_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError):
        write_checkpoint(tmp_path / "checkpoint", {name: b""}, {})
    assert list(tmp_path.iterdir()) == []


def test_objects_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dtype object"):
        write_checkpoint(tmp_path / "c", {"a.safetensors": {"x": np.array([object()])}}, {})
    assert list(tmp_path.iterdir()) == []


def refusal(path: Path) -> str | None:
    """What a save says when the disk refuses; None when it succeeds."""
    try:
        write_checkpoint(path, {"a/x.safetensors": WEIGHTS, "b.json": b"1"}, {})
    except StorageError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("syscall", "calls"), [("fsync", 7), ("rename", 1)])
def test_a_refusing_disk_leaves_nothing_at_any_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syscall: str, calls: int
) -> None:
    original = getattr(os, syscall)
    for survived in range(calls + 1):
        left = [survived]

        def refuse(*arguments: object, left: list[int] = left, **keywords: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errno.EIO, "Input/output error")
            return original(*arguments, **keywords)

        path = tmp_path / f"{syscall}-{survived}"
        with monkeypatch.context() as patch:
            patch.setattr(os, syscall, refuse)
            said = refusal(path)
        assert (left[0] < 0) == (survived < calls)
        if said is not None:
            assert "Input/output error" in said
            assert "bytes are free" in said
        assert (said is None) == (survived == calls)
        if path.exists():
            read_checkpoint(path)
        # When only the last sync fails, all is in its place, though perhaps not yet durable.
        assert path.exists() == (said is None or (syscall, survived) == ("fsync", calls - 1))
        assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_the_manifest_is_written_last_and_the_name_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write, rename = module.write_durably, Path.rename

    def note_write(path: Path, content: bytes) -> None:
        order.append(path.name)
        write(path, content)

    def note_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(module, "write_durably", note_write)
    monkeypatch.setattr(Path, "rename", note_rename)
    write_checkpoint(tmp_path / "c", {"x.json": b"1"}, {})
    assert order == ["x.json", "meta.json", "manifest.json", "rename"]


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    file.write_bytes(module.sealed({**manifest, **changes}))


def unseal(path: Path, number: int = 1) -> None:
    """As the first versions wrote it."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": number}))


def relist(path: Path, name: str, entry: object) -> None:
    files = json.loads((path / "manifest.json").read_text())["files"]
    edit_manifest(path, files={**files, name: entry})


def swap(path: Path) -> None:
    (path / "config.yaml").rename(path / "held")
    (path / "runners" / "0.json").rename(path / "config.yaml")
    (path / "held").rename(path / "runners" / "0.json")


def link_out(path: Path) -> None:
    secret = path.parent / "secret"
    shutil.move(path / "config.yaml", secret)
    (path / "config.yaml").symlink_to(secret)


def link_directory_out(path: Path) -> None:
    shutil.move(path / "runners", path.parent / "runners")
    (path / "runners").symlink_to(path.parent / "runners")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda p: flip(p / "weights.safetensors"), r"weights\.safetensors.*SHA-256 is"),
    "flipped bit in meta": (lambda p: flip(p / "meta.json"), r"meta\.json is damaged"),
    "truncated": (lambda p: os.truncate(p / "config.yaml", 3), "has 3 bytes, its manifest says 10"),
    "zero length": (lambda p: os.truncate(p / "weights.safetensors", 0), "has 0 bytes"),
    "missing file": (lambda p: (p / "config.yaml").unlink(), r"config\.yaml is missing"),
    "extra file": (lambda p: (p / "evil.pkl").write_text(""), r"evil\.pkl is not in its manifest"),
    "swapped files": (swap, "damaged"),
    "flipped bit in the manifest": (
        lambda p: flip(p / "manifest.json", -80),
        r"manifest\.json is d",
    ),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "has no manifest"),
    "manifest cut": (lambda p: os.truncate(p / "manifest.json", 20), "no JSON"),
    "manifest empty": (lambda p: os.truncate(p / "manifest.json", 0), "no JSON"),
    "manifest deep": (lambda p: (p / "manifest.json").write_text("[" * 200_000), "no JSON"),
    "manifest is a list": (lambda p: (p / "manifest.json").write_text("[]"), "not a checkpoint"),
    "of another program": (lambda p: edit_manifest(p, kind="zip"), "not a checkpoint of this"),
    "no format": (lambda p: edit_manifest(p, format="one"), "its format is 'one'"),
    "newer": (
        lambda p: edit_manifest(p, format=FORMAT + 1, version="9.9"),
        rf"has format {FORMAT + 1}, written by version 9\.9; this is version .*, which reads format"
        rf" {FORMAT}: upgrade",
    ),
    "older": (
        lambda p: edit_manifest(p, format=1, version="0.0"),
        rf"has format 1, written by version 0\.0; this is version .*, which reads format {FORMAT}:"
        r" go on with the version that wrote it, or train anew from its config\.yaml",
    ),
    "older, without a seal": (unseal, rf"has format 1, .* which reads format {FORMAT}: go on with"),
    "without a seal": (lambda p: unseal(p, FORMAT), r"manifest\.json is damaged: .* SHA-256"),
    "no files": (lambda p: edit_manifest(p, files=None), "does not list"),
    "name leaves": (lambda p: relist(p, "../x", {"size": 1, "sha256": ""}), "hostile at '../x'"),
    "negative size": (lambda p: relist(p, "x", {"size": -1, "sha256": ""}), "hostile at 'x'"),
    "size is text": (lambda p: relist(p, "config.yaml", {"size": "10"}), "hostile"),
    "link to a file": (link_out, "neither a file nor a directory"),
    "link to a directory": (link_directory_out, "neither a file nor a directory"),
    "pipe": (lambda p: os.mkfifo(p / "pipe"), "neither a file nor a directory"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(saved: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(saved)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved)


def test_a_manifest_that_is_too_large_is_not_read(saved: Path) -> None:
    os.truncate(saved / "manifest.json", (16 << 20) + 1)
    with pytest.raises(CheckpointError, match="larger than"):
        read_checkpoint(saved)


def test_a_link_to_the_whole_checkpoint_is_followed(saved: Path) -> None:
    (saved.parent / "latest").symlink_to(saved.name)
    assert read_checkpoint(saved.parent / "latest").path == saved.resolve()


def test_no_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        read_checkpoint(tmp_path / "nowhere")


def test_asking_for_what_is_not_there_is_told(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    with pytest.raises(CheckpointError, match=r"no file replay\.safetensors; it has config\.yaml"):
        checkpoint.arrays("replay.safetensors")
    with pytest.raises(CheckpointError, match=r"no file \.\./secret"):
        checkpoint.text("../secret")
    with pytest.raises(CheckpointError, match="holds no arrays"):
        checkpoint.arrays("config.yaml")
    with pytest.raises(CheckpointError, match="no JSON"):
        checkpoint.json("config.yaml")
    with pytest.raises(CheckpointError, match="cannot be read as text"):
        checkpoint.text("weights.safetensors")


def test_reading_never_unpickles(saved: Path) -> None:
    program = (
        "import sys\n"
        "from rl.core.records.checkpoint import read_checkpoint\n"
        "def watch(event, arguments):\n"
        "    if event.startswith('pickle.'): raise SystemExit('unpickled')\n"
        "sys.addaudithook(watch)\n"
        "checkpoint = read_checkpoint(sys.argv[1])\n"
        "checkpoint.arrays('weights.safetensors'); checkpoint.json('runners/0.json')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(saved)], check=True)
