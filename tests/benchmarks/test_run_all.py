"""Every comparison is run with arguments it takes, and one that fails does not end the others."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
HELPERS = {"run_all.py", "make_peers.py", "guard.py"}


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_all as module

    return module


@pytest.fixture
def make_peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import make_peers as module

    return module


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_is_asked(run_all: ModuleType) -> None:
    files = {path.name for path in BENCHMARKS.glob("[a-z]*.py")} - HELPERS
    assert {comparison.file for comparison in run_all.COMPARISONS} == files
    names = [comparison.name for comparison in run_all.COMPARISONS]
    assert len(names) == len(set(names))


def test_the_reference_names_comparisons_that_there_are(run_all: ModuleType) -> None:
    reference = json.loads((BENCHMARKS / "reference.json").read_text())
    assert reference.keys() <= {comparison.name for comparison in run_all.COMPARISONS}


def test_arguments_are_flags_of_the_file(run_all: ModuleType) -> None:
    shared = (BENCHMARKS / "_pairs.py").read_text()
    for comparison in run_all.COMPARISONS:
        text = (BENCHMARKS / comparison.file).read_text()
        known = (
            text + shared if "_pairs.parser" in text or "import commit, parser" in text else text
        )
        for word in f"{comparison.arguments} {comparison.quick}".split():
            assert not word.startswith("-") or f'"{word}"' in known, (comparison.name, word)


def wait_for_the_end_of(pid: str) -> None:
    """Fails when the process lives on; one that nobody has collected yet does not."""
    state = Path("/proc") / pid / "stat"
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def planted(run_all: ModuleType, directory: Path, **programs: str) -> list[Any]:
    """Comparisons that are these programs."""
    found = []
    for name, program in programs.items():
        (directory / f"{name}.py").write_text(program)
        found.append(run_all.Comparison(name, str(directory / f"{name}.py"), "--steps 7", "--few"))
    return found


def test_one_that_fails_does_not_end_the_others(
    run_all: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = planted(
        run_all,
        tmp_path,
        first="print('{\"ratio\": 2.0}')",
        broken="raise SystemExit(3)",
        silent="pass",
        garbled="print('{')",
        last="print('noise'); print('{\"of\": NaN, \"more\": [NaN, 1]}'); print('{\"n\": 2}')",
    )
    out = tmp_path / "results" / "out.jsonl"
    assert run_all.run_all(chosen, {}, out) == ["broken", "silent", "garbled"]
    told = results(out)
    assert [entry["comparison"] for entry in told] == [
        *("first", "broken", "silent", "garbled", "last", "last")
    ]
    assert told[0]["ratio"] == 2.0
    assert told[1]["failed"] == "exit code 3"
    assert "failed" in told[2]
    assert "no JSON" in told[3]["failed"]
    assert (told[4]["of"], told[4]["more"], told[5]["n"]) == (None, [None, 1], 2)
    assert all(entry["commit"] and "cores" in entry["machine"] for entry in told)
    assert "error: broken: exit code 3" in capfd.readouterr().err


def test_arguments_and_the_peer_are_handed_over(run_all: ModuleType, tmp_path: Path) -> None:
    say = "import sys, json; print(json.dumps({'words': sys.argv[1:]}))"
    (plain,) = planted(run_all, tmp_path, plain=say)
    paired = run_all.Comparison("paired", plain.file, "--steps 7", "--few", "sb3")
    out = tmp_path / "out.jsonl"
    assert run_all.run_all([plain, paired], {"sb3": "/a b/python"}, out) == []
    assert run_all.run_all([paired], {}, out, quick=True) == []
    words = [entry["words"] for entry in results(out)]
    assert words[0] == ["--steps", "7"]
    assert words[1] == ["--steps", "7", "--peer-python", "/a b/python"]
    assert words[2] == ["--steps", "7", "--few"]
    assert [entry["quick"] for entry in results(out)] == [False, False, True]


def test_one_that_hangs_is_ended_with_all_its_processes(
    run_all: ModuleType, tmp_path: Path
) -> None:
    hang = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    chosen = planted(run_all, tmp_path, hanging=hang)
    out = tmp_path / "out.jsonl"
    assert run_all.run_all(chosen, {}, out, timeout=2.0) == ["hanging"]
    assert "more than 2 s" in results(out)[0]["failed"]
    wait_for_the_end_of((tmp_path / "pid").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs(number: signal.Signals, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "sleep.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid()));"
        " time.sleep(60)"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import run_all;"
        f" run_all.COMPARISONS = (run_all.Comparison('sleep', {str(tmp_path / 'sleep.py')!r}),);"
        f" sys.argv[1:] = ['--out', {str(tmp_path / 'out')!r}]; sys.exit(run_all.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    wait_for_the_end_of(pid.read_text())


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run_all.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_peer_is_told_before_anything_runs(tmp_path: Path) -> None:
    done = command("--out", str(tmp_path / "out"), PEER_PYTHON=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "make peers" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_list_names_all(run_all: ModuleType) -> None:
    done = command("--list", RL_PEERS="/nowhere")
    assert done.returncode == 0
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert said == [comparison.name for comparison in run_all.COMPARISONS]


def test_a_real_one_runs_without_peers(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = "--quick --without-peers --only ppo_native"
    done = command(*words.split(), "--out", str(out))
    assert done.returncode == 0, done.stderr
    (told,) = results(out)
    assert told["comparison"] == "ppo_native"
    assert told["ours"]["steps_per_second"] > 0
    assert told["sb3"].startswith("absent")


def test_a_peers_environment_is_made_once(make_peers: ModuleType, tmp_path: Path) -> None:
    called: list[str] = []

    def run(words: Sequence[str]) -> None:
        called.append(shlex.join(words))
        if "venv" in words:
            (tmp_path / "sb3" / "bin").mkdir(parents=True)
            (tmp_path / "sb3" / "bin" / "python").touch()

    python = make_peers.make("sb3", tmp_path, run)
    assert python == tmp_path / "sb3" / "bin" / "python"
    assert ["venv" in called[0], "pip install" in called[1], "import" in called[2]] == [True] * 3
    assert "stable-baselines3" in called[1]
    assert "torch==2.13.0" in called[1]
    make_peers.make("sb3", tmp_path, run)
    assert len(called) == 3


def test_a_half_made_environment_is_finished(make_peers: ModuleType, tmp_path: Path) -> None:
    def fails(words: Sequence[str]) -> None:
        if "venv" in words:
            (tmp_path / "sb3" / "bin").mkdir(parents=True)
            (tmp_path / "sb3" / "bin" / "python").touch()
        else:
            raise subprocess.CalledProcessError(1, list(words))

    with pytest.raises(subprocess.CalledProcessError):
        make_peers.make("sb3", tmp_path, fails)
    called: list[Sequence[str]] = []
    make_peers.make("sb3", tmp_path, called.append)
    assert called[0][1:3] == ["-m", "pip"]
