import csv
from pathlib import Path

import pytest

from rl.core.records.progress import STEPS_COLUMN, ProgressTable, cut_rows


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_metric_adds_a_column_and_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    table = ProgressTable(path)
    table.append({"time/fps": 100.0}, 10)
    table.append({"time/fps": 200.0, "eval/mean_reward": 0.1}, 20)
    table.append({"eval/mean_reward": float("nan")}, 30)
    table.close()
    assert rows(path) == [
        {STEPS_COLUMN: "10", "time/fps": "100.0", "eval/mean_reward": ""},
        {STEPS_COLUMN: "20", "time/fps": "200.0", "eval/mean_reward": "0.1"},
        {STEPS_COLUMN: "30", "time/fps": "", "eval/mean_reward": "nan"},
    ]


def test_a_resumed_run_keeps_the_columns_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    for step, metrics in ((1, {"b": 1.0, "a": 2.0}), (2, {"a": 4.0, "b": 3.0})):
        table = ProgressTable(path)
        table.append(metrics, step)
        table.close()
    assert path.read_text() == f"{STEPS_COLUMN},b,a\n1,1.0,2.0\n2,3.0,4.0\n"


def test_the_steps_stand_once_even_when_logged_as_a_metric(tmp_path: Path) -> None:
    table = ProgressTable(tmp_path / "progress.csv")
    table.append({STEPS_COLUMN: 7.0}, 7)
    table.close()
    assert (tmp_path / "progress.csv").read_text() == f"{STEPS_COLUMN}\n7\n"


@pytest.mark.parametrize(("until", "left"), [(0, []), (10, [10]), (19, [10]), (99, [10, 20, 30])])
def test_rows_after_a_step_are_cut(tmp_path: Path, until: int, left: list[int]) -> None:
    path = tmp_path / "table.csv"
    path.write_text("env_step,return\n10,1\n20,2\n30,3\n")
    assert cut_rows(path, "env_step", until) == 3 - len(left)
    assert [int(row["env_step"]) for row in rows(path)] == left


def test_a_torn_last_row_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("env_step,return\n10,1\n20,")
    assert cut_rows(path, "env_step", 99) == 1
    assert path.read_text() == "env_step,return\n10,1\n"


def test_a_writer_goes_on_after_its_table_was_cut(tmp_path: Path) -> None:
    table = ProgressTable(tmp_path / "progress.csv")
    for step in (1, 2, 3):
        table.append({}, step)
    table.flush()
    cut_rows(table.path, STEPS_COLUMN, 1)
    table.append({}, 4)
    table.close()
    assert table.path.read_text() == f"{STEPS_COLUMN}\n1\n4\n"
