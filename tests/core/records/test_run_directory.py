import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from rl.core.records.run_directory import RunDirectory, run_name
from rl.errors import StorageError, UsageError

NOW = datetime(2026, 1, 31, 23, 59, 58)


def create(path: Path | None = None, *, root: Path, env: str = "CartPole-v1") -> RunDirectory:
    return RunDirectory.create(path, root=root, env=env, algo="ppo", seed=1, now=NOW)


def test_a_run_is_named_after_what_it_is(tmp_path: Path) -> None:
    with create(root=tmp_path) as run:
        assert run.path == tmp_path / "CartPole-v1__ppo__s1__20260131-235958"
        assert run.path.is_dir()


@pytest.mark.parametrize(
    "env", ["../../etc/passwd", "/abs", "ALE/Pong-v5", "a\0b", "🎮", "x" * 300, "--help", "", "."]
)
def test_no_environment_name_leaves_the_root(tmp_path: Path, env: str) -> None:
    name = run_name(env, "ppo", 1, NOW)
    assert "/" not in name
    assert not name.startswith((".", "-"))
    with create(root=tmp_path / "runs", env=env) as run:
        assert run.path.resolve().parent == (tmp_path / "runs").resolve()


def test_two_runs_in_one_second_get_two_directories(tmp_path: Path) -> None:
    with create(root=tmp_path) as first, create(root=tmp_path) as second:
        assert second.path.name == f"{first.path.name}-2"


def test_a_given_directory_may_be_there_if_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with create(tmp_path / "mine", root=tmp_path) as run:
        assert run.path == tmp_path / "mine"


def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"not empty.*thesis\.txt.*--resume"):
        create(tmp_path / "mine", root=tmp_path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot make run directory .*--run-dir"):
        create(tmp_path / "file" / "run", root=tmp_path)
    with pytest.raises(UsageError, match="cannot make run directory"):
        create(tmp_path / "file", root=tmp_path)
    with pytest.raises(UsageError, match="cannot make run directory"):
        create(root=tmp_path / "file")
    with pytest.raises(UsageError, match="null byte"):
        create(tmp_path / "a\0b", root=tmp_path)


def test_an_unwritable_parent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        create(tmp_path / "run", root=tmp_path)


@contextmanager
def held_by_another_process(path: Path) -> Iterator[int]:
    program = (
        "import sys; from rl.core.records.run_directory import RunDirectory;"
        "run = RunDirectory.create(sys.argv[1], env='E-v0', algo='ppo', seed=0);"
        "run.write_config('algo: ppo'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_a_second_process_is_refused_and_told_the_first(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "run") as pid:
        before = (tmp_path / "run" / ".lock").read_bytes()
        with pytest.raises(UsageError, match=rf"in use by process {pid} on .*started 20"):
            RunDirectory.open(tmp_path / "run")
        with pytest.raises(UsageError, match=rf"in use by process {pid}"):
            create(tmp_path / "run", root=tmp_path)
        assert (tmp_path / "run" / ".lock").read_bytes() == before
    # Killed with SIGKILL just now: the kernel has freed the lock.
    RunDirectory.open(tmp_path / "run").close()


def test_what_was_killed_before_it_had_a_config_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "run"
    create(path, root=tmp_path).close()
    (path / ".config.yaml.tmp-12-0").write_text("algo: p")
    with pytest.raises(UsageError, match="is not a run directory"):
        RunDirectory.open(path)
    with create(path, root=tmp_path) as run:
        assert [entry.name for entry in path.iterdir()] == [".lock"]
        with pytest.raises(UsageError, match="in use"):
            create(path, root=tmp_path)
        run.write_config("algo: ppo\n")
    with pytest.raises(UsageError, match=r"it holds config\.yaml"):
        create(path, root=tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".config.yaml.tmp-12-0").write_text("whose is this?")
    with pytest.raises(UsageError, match="is not empty"):
        create(tmp_path / "other", root=tmp_path)


def test_a_closed_run_can_be_opened_again(tmp_path: Path) -> None:
    run = create(root=tmp_path)
    run.write_config("algo: ppo\n")
    with pytest.raises(UsageError, match="in use"):
        RunDirectory.open(run.path)
    run.close()
    run.close()
    with RunDirectory.open(run.path) as again:
        assert again.config_file.read_text() == "algo: ppo\n"
        assert json.loads((again.path / ".lock").read_text())["pid"] == os.getpid()


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    with create(tmp_path / "run", root=tmp_path) as run:
        run.write_config("algo: ppo\n")
    with pytest.raises(UsageError, match=r"not empty \(it holds config\.yaml\)"):
        create(tmp_path / "run", root=tmp_path)


def test_what_is_no_run_is_told_with_the_way_to_one(tmp_path: Path) -> None:
    with create(root=tmp_path) as run:
        run.write_config("algo: ppo\n")
        run.checkpoints.mkdir()
        with pytest.raises(UsageError, match=r"no config\.yaml"):
            RunDirectory.open(tmp_path)
        with pytest.raises(UsageError, match=f"lies inside one; give .*{run.path.name}"):
            RunDirectory.open(run.checkpoints)
        with pytest.raises(UsageError, match=f"did you mean .*{run.path.name}"):
            RunDirectory.open(tmp_path / run.path.name.replace("CartPole", "CartPol"))
    with pytest.raises(UsageError, match="does not exist"):
        RunDirectory.open(tmp_path / "nowhere" / "at-all")


def test_the_command_comes_back_from_a_shell(tmp_path: Path) -> None:
    command = ["train", "--env-kwargs", "name=a b", "--env", "My's-v0"]
    with create(root=tmp_path) as run:
        run.write_command(command)
        run.write_command(["train", "--resume", "x"])
        lines = run.command_file.read_text().splitlines()
    assert [shlex.split(line) for line in lines] == [command, ["train", "--resume", "x"]]


def test_the_environment_is_told_without_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    with create(root=tmp_path) as run:
        run.write_environment()
        told = run.environment_file.read_text()
    assert "hunter2" not in told
    facts = json.loads(told)
    assert {"python", "rl", "torch", "numpy", "gymnasium"} <= facts["versions"].keys()
    assert facts["cpus"] >= 1
    assert facts["memory_bytes"] > 1 << 20


def test_a_result_takes_the_place_of_an_earlier_failure(tmp_path: Path) -> None:
    with create(root=tmp_path) as run:
        run.write_failure({"code": 4, "message": "worker died"})
        assert json.loads(run.failure_file.read_text())["code"] == 4
        run.write_result({"mean": float("nan"), "returns": (1.0, float("inf"))})
        assert json.loads(run.result_file.read_text()) == {"mean": None, "returns": [1.0, None]}
        assert not run.failure_file.exists()


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with create(root=tmp_path) as run:
        run.write_config("old")
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=r"config\.yaml: No space"):
            run.write_config("new")
        assert run.config_file.read_text() == "old"
