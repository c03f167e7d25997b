import subprocess
from pathlib import Path

from rl.core.records.machine import describe_machine


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_told_and_whether_the_tree_differs(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe_machine(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert describe_machine(tmp_path)["git"] == {"commit": commit, "dirty": True}


def test_outside_a_work_tree_there_is_no_commit(tmp_path: Path) -> None:
    assert describe_machine(tmp_path)["git"] is None
