"""The guard of the benchmarks fails when a ratio fell, and when there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import guard

REFERENCE = {"fast": {"ratio": 4.0}, "ray": {"speed, ray / rllib": 8.0, "speed, two / one": 2.0}}
FINE: dict[str, dict[str, Any]] = {
    "fast": {"ratio": 4.1},
    "ray": {"speed, ray / rllib": 7.0, "speed, two / one": 1.8},
}


def lines(results: dict[str, dict[str, Any]]) -> str:
    return "".join(json.dumps({"comparison": n, **told}) + "\n" for n, told in results.items())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps(REFERENCE))
    return tmp_path / "results.jsonl", reference


def judged(
    files: tuple[Path, Path], text: str, capsys: pytest.CaptureFixture[str], *flags: str
) -> tuple[int, list[str], list[str]]:
    """Exit code, what holds and what does not."""
    results, reference = files
    results.write_text(text)
    code = guard.main([str(results), "--reference", str(reference), *flags])
    said = capsys.readouterr().out.splitlines()
    good = [line for line in said if line.startswith("ok ")]
    return code, good, [line for line in said if line.startswith("FAILED")]


def test_ratios_that_hold_pass(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, good, bad = judged(files, lines(FINE), capsys)
    assert (code, len(good), bad) == (0, 3, [])


@pytest.mark.parametrize(("ratio", "code"), [(3.41, 0), (3.40, 0), (3.39, 1), (0.0, 1), (9.0, 0)])
def test_a_fall_of_more_than_15_percent_fails_and_is_named(
    ratio: float, code: int, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(files, lines({**FINE, "fast": {"ratio": ratio}}), capsys)
    assert found[0] == code
    assert [line.startswith("FAILED fast, ratio") for line in found[2]] == [True] * code


def test_every_fall_is_named(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    slow = {"fast": {"ratio": 1.0}, "ray": {"speed, ray / rllib": 4.0, "speed, two / one": 1.0}}
    code, good, bad = judged(files, lines(slow), capsys)
    assert (code, good) == (1, [])
    assert bad == [
        "FAILED fast, ratio: 1.0, reference 4.0: fell by 75%",
        "FAILED ray, speed, ray / rllib: 4.0, reference 8.0: fell by 50%",
        "FAILED ray, speed, two / one: 1.0, reference 2.0: fell by 50%",
    ]


def test_a_missing_comparison_fails(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, bad = judged(files, lines({"fast": FINE["fast"]}), capsys)
    assert (code, bad) == (1, ["FAILED ray: not measured"])
    assert judged(files, lines({"fast": FINE["fast"]}), capsys, "--only", "fast")[0] == 0
    assert judged(files, "", capsys)[0] == 1


def test_an_absent_peer_fails_unless_it_is_excused(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"rllib": "absent: give --peer-python", "speed, two / one": 1.9}
    text = lines({**FINE, "ray": alone})
    code, _, bad = judged(files, text, capsys)
    assert (code, bad) == (1, ["FAILED ray, speed, ray / rllib: the peer was absent"])
    assert judged(files, text, capsys, "--allow-absent")[::2] == (0, [])


def test_an_excuse_for_absent_peers_excuses_no_fall(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"rllib": "absent: give --peer-python", "speed, two / one": 1.0}
    code, _, bad = judged(files, lines({**FINE, "ray": alone}), capsys, "--allow-absent")
    assert code == 1
    assert bad == ["FAILED ray, speed, two / one: 1.0, reference 2.0: fell by 50%"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"failed": "exit code 1"}, "failed: exit code 1"),
        ({}, "no such number"),
        ({"ratio": None}, "no such number"),
        ({"ratio": float("nan")}, "no such number"),
        ({"ratio": "fast"}, "no such number"),
        ({"ratio": 5.0, "quick": True}, "--quick"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--allow-absent",)])
def test_no_number_is_no_pass(
    told: dict[str, Any],
    why: str,
    flags: tuple[str, ...],
    files: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, bad = judged(files, lines({**FINE, "fast": told}), capsys, *flags)
    assert code == 1
    assert len(bad) == 1
    assert why in bad[0]


def test_what_was_measured_last_counts(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fine = lines({**FINE, "fast": {"ratio": 1.0}}), lines(FINE)
    failed = lines({"fast": {"failed": "exit code 1"}})
    assert judged(files, slow + fine, capsys)[0] == 0
    assert judged(files, fine + slow, capsys)[0] == 1
    assert judged(files, failed + fine, capsys)[0] == 0
    assert judged(files, fine + failed, capsys)[0] == 1


def test_lines_of_one_comparison_belong_together(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = lines(FINE) + lines({"ray": {"question": "another", "seconds": 0.3}})
    assert judged(files, text, capsys)[0] == 0


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"ratio": 4.0}\n'])
def test_what_is_no_result_is_refused(
    text: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(files, lines(FINE) + text, capsys)[0] == 2
    assert guard.main([str(files[0].parent / "nowhere")]) == 2
    assert "error: " in capsys.readouterr().err


def test_an_unknown_name_is_refused(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(files, lines(FINE), capsys, "--only", "fats")[0] == 2


def test_the_newest_results_are_judged_by_default(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, reference = files
    monkeypatch.setattr(guard, "HERE", reference.parent)
    assert guard.main(["--reference", str(reference)]) == 2
    assert "make bench" in capsys.readouterr().err
    (reference.parent / "results").mkdir()
    (reference.parent / "results" / "first.jsonl").write_text(lines(FINE))
    assert guard.main(["--reference", str(reference)]) == 0
