"""How TensorBoard shows a run: the charts of the custom-scalars page and the HParams tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from rl.core.records.event_file import plugin_metadata, string_value

__all__ = ["Setting", "hparams_end", "hparams_start", "layout"]

Setting: TypeAlias = bool | int | float | str

# As in `tensorboard.plugins.hparams.metadata`, which imports TensorBoard's stand-in for TensorFlow.
HPARAMS_PLUGIN, HPARAMS_VERSION = "hparams", 0
EXPERIMENT_TAG = "_hparams_/experiment"
SESSION_START_TAG = "_hparams_/session_start_info"
SESSION_END_TAG = "_hparams_/session_end_info"

_CHARTS: Mapping[str, Mapping[str, str]] = {
    "Return": {
        "Return: training and evaluation": r"rollout/ep_rew_mean|eval/mean_reward",
        "Episode length": r"rollout/ep_len_mean|eval/mean_ep_length",
        "Success rate": r"(rollout|eval)/success_rate",
    },
    "Losses": {
        "Policy": r"train/(policy_gradient_loss|actor_loss)",
        "Value": r"train/(value_loss|critic_loss)",
        "Total": r"train/loss",
        "KL divergence of an update": r"train/approx_kl",
        "Share of clipped probability ratios": r"train/clip_fraction",
        "Explained variance of the value function": r"train/explained_variance",
        "Learning rate": r"train/learning_rate",
    },
    "Exploration": {
        "Entropy loss": r"train/entropy_loss",
        "Noise": r"train/std|rollout/exploration_rate",
        "Entropy coefficient": r"train/ent_coef(_loss)?",
    },
    "Speed": {
        "Steps per second": r"time/fps|perf/(sample|learner)_fps",
        "Where the time goes": r"perf/(env|inference|learn|wait)_share",
        "Policy lag in updates": r"train/policy_lag_(mean|max)",
        "Runners": r"sampler/(alive|restarts|restored_steps|discarded_steps|env_failures)",
    },
}
_ALWAYS = "Return: training and evaluation"  # the layout is written before the first evaluation
_HPARAMS_METRICS = ("eval/mean_reward", "rollout/ep_rew_mean", "time/fps")


def layout(tags: Iterable[str]) -> Summary.Value:
    """The charts that the given metrics fill; a run without them shows no empty ones."""
    known = tuple(tags)
    categories = []
    for category, charts in _CHARTS.items():
        shown = [
            layout_pb2.Chart(
                title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^({pattern})$"])
            )
            for title, pattern in charts.items()
            if title == _ALWAYS or any(re.fullmatch(pattern, tag) for tag in known)
        ]
        if shown:
            categories.append(layout_pb2.Category(title=category, chart=shown))
    content = layout_pb2.Layout(category=categories).SerializeToString()
    tag = layout_metadata.CONFIG_SUMMARY_TAG
    return string_value(tag, layout_metadata.PLUGIN_NAME, content)


def hparams_start(settings: Mapping[str, Setting]) -> list[Summary.Value]:
    """What the HParams page needs when a run begins: the columns and this run's settings."""
    start = plugin_data_pb2.SessionStartInfo()
    columns = []
    for name, value in settings.items():
        column = api_pb2.HParamInfo(name=name)
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
            column.type = api_pb2.DATA_TYPE_BOOL
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
            column.type = api_pb2.DATA_TYPE_FLOAT64
        else:
            start.hparams[name].string_value = value
            column.type = api_pb2.DATA_TYPE_STRING
        columns.append(column)
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in _HPARAMS_METRICS]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
    return [
        _hparams(EXPERIMENT_TAG, {"experiment": experiment}),
        _hparams(SESSION_START_TAG, {"session_start_info": start}),
    ]


def hparams_end(*, succeeded: bool) -> Summary.Value:
    """What the HParams page needs when a run ends."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status)
    return _hparams(SESSION_END_TAG, {"session_end_info": end})


def _hparams(tag: str, content: Mapping[str, object]) -> Summary.Value:
    data = plugin_data_pb2.HParamsPluginData(version=HPARAMS_VERSION, **content)
    metadata = plugin_metadata(HPARAMS_PLUGIN, data.SerializeToString())
    return Summary.Value(tag=tag, metadata=metadata)
