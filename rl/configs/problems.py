"""Turns what a validator found into problems a person can mend: path, value, rule, near name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rl.configs.describe import fields_of, is_section, rule, setting_paths
from rl.configs.near import near_name
from rl.errors import Problem

__all__ = ["ELSEWHERE", "near_setting", "problems_of", "shown", "unknown_setting"]

FOREIGN_NAMES: Mapping[str, tuple[str, ...]] = {
    "adam_eps": ("adam_epsilon",),
    "alpha": ("ent_coef", "learning_rate"),
    "anneal_lr": ("learning_rate_final",),
    "batch_size": ("minibatch_size",),
    "clip_coef": ("clip_range",),
    "clip_param": ("clip_range",),
    "clip_ratio": ("clip_range",),
    "clip_range_vf": ("value_clip_range",),
    "clip_vloss": ("value_clip_range",),
    "discount": ("gamma",),
    "ent_coef": ("entropy_coef",),
    "entropy_coeff": ("entropy_coef",),
    "entropy_coef": ("ent_coef",),
    "env_config": ("env_kwargs",),
    "env_id": ("env",),
    "env_name": ("env",),
    "epochs": ("num_epochs",),
    "eval_episodes": ("evaluation.num_episodes",),
    "eval_freq": ("evaluation.interval",),
    "eval_interval": ("evaluation.interval",),
    "evaluation_interval": ("evaluation.interval",),
    "fcnet_hiddens": ("hidden_sizes",),
    "grad_clip": ("max_grad_norm",),
    "gradient_steps": ("updates_per_step",),
    "lam": ("gae_lambda",),
    "lambda": ("gae_lambda",),
    "lambda_": ("gae_lambda",),
    "lr": ("learning_rate",),
    "lstm_cell_size": ("memory_size",),
    "lstm_hidden_size": ("memory_size",),
    "max_seq_len": ("sequence_length",),
    "mini_batch_size": ("minibatch_size",),
    "n_envs": ("env_runners.envs_per_runner",),
    "n_epochs": ("num_epochs",),
    "n_eval_episodes": ("evaluation.num_episodes",),
    "n_steps": ("rollout_length", "n_step"),
    "n_timesteps": ("total_steps",),
    "net_arch": ("hidden_sizes",),
    "norm_adv": ("normalize_advantages",),
    "normalize_advantage": ("normalize_advantages",),
    "num_cpus": ("env_runners.num",),
    "num_env_runners": ("env_runners.num",),
    "num_envs": ("env_runners.envs_per_runner",),
    "num_envs_per_env_runner": ("env_runners.envs_per_runner",),
    "num_envs_per_worker": ("env_runners.envs_per_runner",),
    "num_gpus": ("learners.device",),
    "num_minibatches": ("minibatch_size",),
    "num_rollout_workers": ("env_runners.num",),
    "num_sgd_iter": ("num_epochs",),
    "num_steps": ("rollout_length",),
    "num_workers": ("env_runners.num",),
    "polyak": ("tau",),
    "replay_size": ("buffer_size",),
    "rollout_fragment_length": ("rollout_length",),
    "save_freq": ("checkpoints.interval",),
    "sgd_minibatch_size": ("minibatch_size",),
    "total_timesteps": ("total_steps",),
    "train_batch_size": ("rollout_length",),
    "train_freq": ("updates_per_step",),
    "update_epochs": ("num_epochs",),
    "use_lstm": ("memory",),
    "vf_coef": ("value_coef",),
    "vf_loss_coeff": ("value_coef",),
}
"""What other libraries call a setting -> names here; the first that a config has is meant."""

SAME_LEAF: Mapping[str, str] = {"device": "learners.device"}
"""Which setting is meant by a bare name that several sections have, if not the first."""

NO_MEMORY = (
    "of these algorithms ppo and dqn have memory: choose one (--algo ppo), or show this one several"
    " observations at a time (gymnasium.wrappers.FrameStackObservation)"
)
ELSEWHERE: Mapping[str, str] = dict.fromkeys(
    ("memory", "memory_size", "sequence_length", "burn_in"), NO_MEMORY
)
"""What to say to those who ask an algorithm for what only another has."""

LONGEST_VALUE = 80
"""Characters of a wrong value that a message shows."""


def _section_names(settings: type) -> list[str]:
    return [name for name, field in fields_of(settings).items() if is_section(field.annotation)]


def near_setting(settings: type, path: str) -> str | None:
    """The dotted path of the setting, or name of the section, that an unknown path likely means."""
    paths = [known for known, _ in setting_paths(settings)]
    sections = _section_names(settings)
    name = path.replace("-", "_")
    section, _, leaf = name.rpartition(".")
    for meant in FOREIGN_NAMES.get(leaf.lower(), ()):
        if meant in paths:
            return meant
    by_leaf = {known.rpartition(".")[2]: known for known in reversed(paths)}
    by_leaf |= {bare: meant for bare, meant in SAME_LEAF.items() if meant in paths}
    if leaf in by_leaf:
        return by_leaf[leaf]
    if section in sections:
        inside = [p.removeprefix(f"{section}.") for p in paths if p.startswith(f"{section}.")]
        if found := near_name(leaf, inside):
            return f"{section}.{found}"
    top_level = [known for known in paths if "." not in known]
    return (
        near_name(name, [*top_level, *sections])
        or near_name(name, paths)
        or by_leaf.get(near_name(leaf, by_leaf) or "")
    )


def unknown_setting(settings: type, path: str) -> Problem:
    """The problem of a setting that `settings` does not have."""
    name = path.replace("-", "_")
    if name in ELSEWHERE:
        return Problem(path, f"there is no such setting here; {ELSEWHERE[name]}")
    meant = near_setting(settings, path)
    if meant:
        return Problem(path, f"there is no such setting; did you mean `{meant}`?")
    section = path.rpartition(".")[0]
    names = fields_of(settings)
    if section in names and is_section(names[section].annotation):
        names = fields_of(names[section].annotation)  # type: ignore[arg-type]
    return Problem(path, "there is no such setting; there are " + ", ".join(sorted(names)))


def shown(value: object) -> str:
    """A value as a message shows it: one line, shortened, control characters escaped."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _locate(settings: type, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """Dotted path of the setting at a validator's location, and its field; None for an unknown one.

    What a location says beyond the setting (a member of a union, an entry of a list) is left out.
    """
    path: list[str] = []
    where = settings
    for part in location:
        path.append(str(part))
        field = fields_of(where).get(str(part))
        if field is None or not is_section(field.annotation):
            return ".".join(path), field
        assert isinstance(field.annotation, type)
        where = field.annotation
    return ".".join(path), fields_of(settings)[path[0]] if len(path) == 1 else None


def _message(error: Mapping[str, Any], path: str, field: Any) -> str:
    """What is wrong with a known setting."""
    if error["type"] in ("value_error", "assertion_error"):
        return str(error["ctx"]["error"])
    if error["type"] == "rule" or field is None:
        return str(error["msg"])
    wanted = rule(field.annotation, field.metadata)
    if error["type"].startswith("missing"):
        return f"is required: {wanted}"
    inside = " in it" if isinstance(error["loc"][-1], int) else ""
    return f"must be {wanted}; got {shown(error['input'])}{inside}"


def problems_of(settings: type, error: ValidationError) -> list[Problem]:
    """Every problem in a validator's error, one for each setting."""
    found: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        details: Mapping[str, Any] = item
        kind = details["type"]
        if kind == "unexpected_positional_argument":
            message = f"settings are given by name: {settings.__name__}(env=...)"
            found.setdefault("", Problem("", message))
            continue
        path, field = _locate(settings, details["loc"])
        if kind == "unexpected_keyword_argument":
            found.setdefault(path, unknown_setting(settings, path))
        else:
            found.setdefault(path, Problem(path, _message(details, path, field)))
    return list(found.values())
