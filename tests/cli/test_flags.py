"""Flags: every mistake on a command line is told, none hides another."""

from __future__ import annotations

import pytest

from rl.cli.flags import Flag, flag_name, parse, unknown_flags

FLAGS = (
    Flag("gamma", "Discount.", "FLOAT", ("0.99",)),
    Flag("hidden_sizes", "Units.", "INT ...", ("64", "64"), many=True),
    Flag("fast", "Hurry.", default=False),
    Flag("quiet", "Hush.", default=False, paired=False),
    Flag("run_dir", "Where.", "DIR"),
    Flag("env_runners.num", "Runners.", "INT", ("1",)),
    Flag("env_runners.deep_down", "Far.", default=False, short="deep"),
)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("--gamma 0.5", {"gamma": ("0.5",)}),
        ("--gamma=0.5", {"gamma": ("0.5",)}),
        ("--gamma -1e-3", {"gamma": ("-1e-3",)}),
        ("--gamma 0.5 --gamma 0.6", {"gamma": ("0.6",)}),
        ("--hidden-sizes 3 4 5", {"hidden_sizes": ("3", "4", "5")}),
        ("--hidden_sizes 3", {"hidden_sizes": ("3",)}),
        ("--fast --quiet", {"fast": True, "quiet": True}),
        ("--env-runners.num 4", {"env_runners.num": ("4",)}),
        ("--gamma 0.99 --no-fast", {}),
        ("--env-runners.deep-down", {"env_runners.deep_down": True}),
        ("--deep", {"env_runners.deep_down": True}),
        ("--deep --no-deep", {}),
    ],
)
def test_flags_are_read(words: str, values: dict[str, object]) -> None:
    line = parse("x", "", FLAGS, words.split())
    assert line.values == values
    assert unknown_flags(line, FLAGS) == []


def test_every_mistake_is_told() -> None:
    line = "stray --gama 3 4 --env-runners.nun 2 --no-quiet --deeep --no-deeep --gamma"
    problems = unknown_flags(parse("x", "", FLAGS, line.split()), FLAGS)
    assert [str(problem) for problem in problems] == [
        "--gamma: needs a value: --gamma FLOAT",
        "--gama: there is no such flag; did you mean --gamma?",
        "--env-runners.nun: there is no such flag; did you mean --env-runners.num?",
        "--no-quiet: there is no such flag; did you mean --quiet?",
        "--deeep: there is no such flag; did you mean --deep?",
        "--no-deeep: there is no such flag; did you mean --no-deep?",
        "stray: belongs to no flag; --help lists them",
    ]


def test_words_beside_flags_may_be_wanted() -> None:
    line = parse("x", "", FLAGS, ["--gamma", "0.5", "runs/first", "--fast"])
    assert line.words == ["runs/first"]
    assert unknown_flags(line, FLAGS, words=1) == []


def test_a_flag_is_shown_as_it_is_written() -> None:
    line = parse("x", "", FLAGS, ["--hidden-sizes", "3", "4", "--fast"])
    assert line.written("hidden_sizes") == "--hidden-sizes 3 4"
    assert line.written("fast") == "--fast"
    assert flag_name("learners.use_it", negated=True) == "--learners.no-use-it"


def test_help_shows_defaults_and_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("x", "What it does.", FLAGS, ["--help"], sections={"env_runners": "Collecting."})
    assert end.value.code == 0
    said = capsys.readouterr().out
    for expected in (
        "What it does.",
        "--gamma FLOAT",
        "(default: 0.99)",
        "Collecting.",
        "--no-fast",
        "--deep, --no-deep, --env-runners.deep-down",
    ):
        assert expected in said
    assert "--no-quiet" not in said
    assert "(default: )" not in said
