import csv
import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from rl.core.records.episodes import EpisodeLog
from rl.core.records.metrics import MetricsLogger

PPO = {"rollout/ep_rew_mean": 21.5, "time/fps": 1000.0, "train/value_loss": 0.5}


def board(directory: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def curve(directory: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board(directory).Scalars(tag)]


def charts(directory: Path) -> Mapping[str, list[str]]:
    event = board(directory).Tensors("custom_scalars__config__")[0]
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: [chart.title for chart in category.chart] for category in layout.category
    }


def test_curves_are_over_environment_steps(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log({"rollout/ep_rew_mean": 1.5}, 2048)
        logger.log({"rollout/ep_rew_mean": 2.5, "eval/mean_reward": 9.0}, 4096)
    assert curve(tmp_path, "rollout/ep_rew_mean") == [(2048, 1.5), (4096, 2.5)]
    assert curve(tmp_path, "eval/mean_reward") == [(4096, 9.0)]
    assert (tmp_path / "progress.csv").read_text().splitlines() == [
        "time/total_timesteps,rollout/ep_rew_mean,eval/mean_reward",
        "2048,1.5,",
        "4096,2.5,9.0",
    ]


def test_the_layout_shows_training_beside_evaluation_and_no_empty_charts(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log({"rollout/ep_rew_mean": 1.0}, 1)
        logger.log(PPO, 2)
        logger.log(PPO, 3)
    assert len(board(tmp_path).Tensors("custom_scalars__config__")) == 1
    assert charts(tmp_path) == {
        "Return": ["Return: training and evaluation"],
        "Losses": ["Value"],
        "Speed": ["Steps per second"],
    }


def test_a_run_without_updates_gets_its_layout_at_the_end_and_one_may_go_without(
    tmp_path: Path,
) -> None:
    for name, wanted in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        with MetricsLogger(tmp_path / name, layout=wanted) as logger:
            logger.log({"rollout/ep_rew_mean": 1.0}, 1)
        assert ("custom_scalars__config__" in board(tmp_path / name).Tags()["tensors"]) is wanted


def test_text_is_shown(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log_text("config", "```yaml\nalgo: ppo\n```", 0)
    event = board(tmp_path).Tensors("config/text_summary")[0]
    assert event.tensor_proto.string_val[0] == b"```yaml\nalgo: ppo\n```"
    metadata = board(tmp_path).SummaryMetadata("config/text_summary")
    assert metadata.plugin_data.plugin_name == "text"


def hparams(directory: Path, tag: str) -> plugin_data_pb2.HParamsPluginData:
    metadata = board(directory).SummaryMetadata(f"_hparams_/{tag}")
    return plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)


def test_hparams_stand_in_the_runs_own_file(tmp_path: Path) -> None:
    settings = {"learning_rate": 3e-4, "seed": 1, "double": True, "activation": "tanh"}
    with MetricsLogger(tmp_path) as logger:
        logger.log_hparams(settings)
        logger.log(PPO, 2048)
        logger.log_hparams(settings, {"eval/mean_reward": 475.0}, succeeded=False)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    start = hparams(tmp_path, "session_start_info").session_start_info
    assert start.hparams["learning_rate"].number_value == 3e-4
    assert start.hparams["double"].bool_value is True
    assert start.hparams["activation"].string_value == "tanh"
    experiment = hparams(tmp_path, "experiment").experiment
    assert [column.name for column in experiment.hparam_infos] == list(settings)
    assert "eval/mean_reward" in [metric.name.tag for metric in experiment.metric_infos]
    assert hparams(tmp_path, "session_end_info").session_end_info.status == 2  # FAILURE
    assert curve(tmp_path, "eval/mean_reward") == [(2048, 475.0)]


def test_a_final_value_that_is_on_the_curve_is_not_drawn_twice(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log({"eval/mean_reward": 475.0, "time/fps": 1.0}, 2048)
        logger.log_hparams({"seed": 1}, {"eval/mean_reward": 475.0, "time/fps": 2.0})
    assert curve(tmp_path, "eval/mean_reward") == [(2048, 475.0)]
    assert curve(tmp_path, "time/fps") == [(2048, 1.0), (2048, 2.0)]


def test_a_resumed_run_shows_no_point_twice(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        episodes = EpisodeLog(tmp_path / "episodes.csv")
        for step in (100, 200, 300):
            logger.log({"rollout/ep_rew_mean": float(step), "train/loss": 1.0}, step)
            episodes.append(step, 1.0, 1, 0.0)
        logger.log({"eval/mean_reward": 5.0}, 300)
        episodes.close()
    with MetricsLogger(tmp_path) as logger:
        logger.cut_back(200)
        logger.log({"rollout/ep_rew_mean": -300.0}, 300)
    assert curve(tmp_path, "rollout/ep_rew_mean") == [(100, 100.0), (200, 200.0), (300, -300.0)]
    assert curve(tmp_path, "train/loss") == [(100, 1.0), (200, 1.0)]
    assert board(tmp_path).Scalars("eval/mean_reward") == []
    with (tmp_path / "progress.csv").open(newline="") as file:
        steps = [row["time/total_timesteps"] for row in csv.DictReader(file)]
    assert steps == ["100", "200", "300"]
    assert (tmp_path / "episodes.csv").read_text().splitlines()[1:] == [
        "100,1.0,1,0.000",
        "200,1.0,1,0.000",
    ]


def test_event_files_are_in_the_order_they_were_made(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.9999999999.elsewhere").write_bytes(b"")
    with MetricsLogger(tmp_path) as logger:
        logger.log({"a": 1.0}, 1)
    assert sorted(path.name for path in tmp_path.glob("events*"))[0].startswith(
        "events.out.tfevents.10000000000"
    )


def test_points_are_seen_while_the_run_goes_on(tmp_path: Path) -> None:
    now = [0.0]
    logger = MetricsLogger(tmp_path, clock=lambda: now[0])
    logger.log({"a": 1.0}, 1)
    assert "a" not in board(tmp_path).Tags()["scalars"]
    now[0] = 2.0
    logger.log({"a": 2.0}, 2)
    assert curve(tmp_path, "a") == [(1, 1.0), (2, 2.0)]
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 3
    logger.close()
    logger.close()


def test_a_full_disk_costs_points_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log({"a": 1.0, "b": 1.0}, 1)
    logger.flush()
    write = os.write

    def tear(descriptor: int, content: bytes) -> int:
        if len(content) > 5:
            return write(descriptor, content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", tear)
        for step in (2, 3):
            logger.log({"a": 2.0, "b": 2.0}, step)
            logger.flush()
    assert logger.dropped == 2 * (2 + 1)  # two points and a row, twice
    assert [record.message.count("No space") for record in caplog.records] == [1, 1]
    logger.log({"a": 4.0, "b": 4.0}, 4)
    logger.close()
    assert curve(tmp_path, "a") == [(1, 1.0), (4, 4.0)]
    assert (tmp_path / "progress.csv").read_text().splitlines()[1:] == ["1,1.0,1.0", "4,4.0,4.0"]


def test_a_directory_that_vanished_costs_points_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLogger(tmp_path / "gone") as logger:
        logger.log(PPO, 1)
        logger.log_text("config", "x", 0)
        logger.cut_back(0)
    # Three points, a layout and a row, then the text.
    assert logger.dropped == 3 + 1 + 1 + 1
    assert len(caplog.records) == 2


def test_records_need_neither_torch_nor_gymnasium(tmp_path: Path) -> None:
    program = (
        "import sys; import rl.core.records.metrics, rl.core.records.run_directory;"
        "import rl.core.records.checkpoint_store, rl.core.records.episodes;"
        "sys.exit(' '.join({'torch', 'gymnasium', 'tensorflow'} & sys.modules.keys()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert answer.stderr.strip() == ""
