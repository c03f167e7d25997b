"""The settings every algorithm has, and the sections of the machinery that all share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rl.configs.base import Settings, config, section_update
from rl.configs.frozen import FrozenDict
from rl.configs.kinds import (
    Amounts,
    AtLeastOne,
    Device,
    Encoder,
    Environment,
    NotNegative,
    Positive,
    Table,
    Threads,
    Variables,
)
from rl.errors import Problem

if TYPE_CHECKING:
    from rl.algorithms.algorithm import Algorithm

__all__ = [
    "ALL_ACTIONS",
    "ActionKind",
    "AlgorithmConfig",
    "AtLeastOne",
    "CheckpointsConfig",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "LearnersConfig",
    "MetricsConfig",
    "NotNegative",
    "Positive",
    "RuntimeConfig",
]

ActionKind = Literal["discrete", "multi_discrete", "multi_binary", "box", "dict", "tuple"]

ALL_ACTIONS: frozenset[ActionKind] = frozenset(
    {"discrete", "multi_discrete", "multi_binary", "box", "dict", "tuple"}
)


@config
class EnvRunnersConfig(Settings):
    """How experience is collected. The two numbers say what is computed, the engine says where."""

    num: AtLeastOne = 1
    """Runners; each steps its own environments with its own copy of the policy."""
    envs_per_runner: AtLeastOne = 8
    """Environments of each runner (B), stepped together as one batch."""
    min: NotNegative = 0
    """Processes that suffice to go on, while others are missing: their runners are sampled by those
    that are there, and the result is the same. 0: every runner has a process of its own, and is
    waited for."""
    max: AtLeastOne | None = None
    """Processes at most, where `min` lets them come and go; none: one for each runner."""
    vectorization: Literal["auto", "native", "single"] = "auto"
    """native: one vector environment, by the environment's own vector code; single: one after the
    other, each restorable to the bit; auto: native for Atari and what is only there vectorised."""
    device: Device = "cpu"
    """Where runners choose actions: cpu, cuda, cuda:N, or auto (cuda when there is one). Inline, on
    the learner's own GPU, PPO learns from the observations that are there then."""
    overlap: bool = False
    """Sample the next fragment while the learner learns from the last: by the weights of one update
    round before, always, whatever the engine."""
    step_timeout: Positive = 300.0
    """Seconds without a step after which a runner's process is taken for hung and made anew; not
    used inline."""
    max_env_failures: NotNegative = 10
    """How often environments may raise in a run, and in an evaluation. One that does is made anew:
    its episode ends as truncated with the step before; in an evaluation it is played again. Vector
    environments may not, nor one that never takes a step."""

    def problems(self) -> Iterator[Problem]:
        """There is at most one process for each runner."""
        if self.max is not None and self.min == 0:
            yield Problem("max", "is of use only beside env_runners.min; write both")
        most = self.num if self.max is None else self.max
        if most > self.num:
            yield Problem("max", f"is {most}, but env_runners.num is {self.num}: one each is most")
        if self.min > most:
            yield Problem("min", f"is {self.min}, but there are {most} processes at most")


@config
class LearnersConfig(Settings):
    """How the network is trained."""

    num: NotNegative = 0
    """Processes that learn side by side, each from its part of every batch; 0: this process."""
    device: Device = "cpu"
    """Where the update runs: cpu, cuda, cuda:N, or auto (cuda when there is one)."""
    threads: Threads = "auto"
    """Processor threads of each learner. auto: two for compiled passes where two cores are free,
    else one. What compiled passes compute does not depend on the number; what torch and numpy do
    does, in the last bits."""
    engine: Literal["auto", "torch", "compiled", "numpy"] = "auto"
    """torch: what every loss is defined in; compiled: the same gradients by hand, through compiled
    passes, faster for networks without images; numpy: the same, where nothing was compiled; auto:
    the first that can of compiled, numpy and torch, and the run says so. Each gives the same bits
    every time, they differ in the last ones. On a GPU auto takes torch, and compiled plays CUDA
    graphs."""
    timeout: Positive = 150.0
    """Seconds after which the others give up a learner that does not answer; without num, idle."""
    check_interval: AtLeastOne = 100
    """Optimizer steps between checks that all learners hold the same weights; with num 2 or more.
    """

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together."""
        yield from super().problems()
        for name, least, default in (("timeout", 1, 150.0), ("check_interval", 2, 100)):
            value = getattr(self, name)
            if self.num < least and value != default:
                yield Problem(
                    name,
                    f"{value} has no effect while num is {self.num}; write num: {least} or more, or"
                    " leave it out",
                )
        if self.num > 1 and self.device.startswith("cuda:"):
            yield Problem(
                "device",
                f"{self.device!r} is one GPU, but num asks for {self.num} learners with one each;"
                " write cuda",
            )

    def enough_rows(self, setting: str, rows: int) -> Iterator[Problem]:
        """Yields a problem where a batch of so many rows leaves a learner without any."""
        if rows < self.num:
            yield Problem(
                setting,
                f"{rows} leaves {self.num - rows} of {self.num} learners (learners.num) without a"
                f" row of a batch; write {self.num} or more, or fewer learners",
            )


@config
class RuntimeConfig(Settings):
    """Where the parts of a run live. Changing the engine never changes the result."""

    engine: Literal["auto", "inline", "process", "ray"] = "auto"
    """inline: everything in this process; process: a worker process for each runner; ray: the same
    on a Ray cluster; auto: process where there are several runners and cores, or learners.num.
    The result is the same, to the bit."""
    max_restarts: NotNegative = 10
    """How often within ten minutes a runner or learner whose process dies is made anew; not used
    inline."""
    runner_resources: Amounts = FrozenDict()
    """What each runner reserves, {cpu: 1, gpu: 0.1, name: 1}; empty: cpu: 1 on a cluster, nothing
    on this machine."""
    address: str | None = None
    """Ray cluster to join, auto or host:port; none: a Ray of this machine, for this run."""
    namespace: str | None = None
    """Ray namespace of the run's actors; none: one of its own."""
    working_dir: str | None = None
    """Directory that Ray copies to every node, for the environment's code; none: nothing."""
    env_vars: Variables = FrozenDict()
    """Environment variables of every Ray worker, {MUJOCO_GL: egl}."""
    placement: Literal["spread", "strict_spread", "pack", "strict_pack"] = "spread"
    """Of the runners on a cluster: over its nodes, or on few; strict: so, or not at all."""
    placement_timeout: Positive = 30.0
    """Seconds a cluster may take to find room for the runners, as where an autoscaler has to start
    machines; then the run ends with an error."""

    def problems(self) -> Iterator[Problem]:
        """Only Ray has a use for some of the settings."""
        if self.engine == "ray":
            return
        for name in RAY_ONLY:
            if getattr(self, name) != getattr(type(self)(), name):
                yield Problem(
                    name, f"the engine {self.engine} makes no use of it; write runtime.engine ray"
                )


RAY_ONLY = ("address", "namespace", "working_dir", "env_vars", "placement", "placement_timeout")


@config
class EvaluationConfig(Settings):
    """How the policy is tested while it trains, greedily and in environments of its own."""

    interval: NotNegative = 0
    """Environment steps between evaluations; 0: only at the end."""
    num_episodes: AtLeastOne = 10
    """Episodes of one evaluation."""
    video_interval: NotNegative = 0
    """Evaluations from one video to the next, in TensorBoard and in videos/; the last has one, too.
    0: none."""

    def problems(self) -> Iterator[Problem]:
        """There are several evaluations to choose from only where an interval says so."""
        if self.video_interval > 1 and self.interval == 0:
            yield Problem(
                "video_interval",
                f"{self.video_interval} has no effect while there is one evaluation, at the end;"
                " write 1, or evaluation.interval",
            )


@config
class CheckpointsConfig(Settings):
    """What is kept to continue from."""

    interval: NotNegative = 0
    """Environment steps between checkpoints; 0: none by the count of steps."""
    seconds: Annotated[float, Field(ge=0)] = 300.0
    """Seconds of training after which a checkpoint is due besides; 0: none by the clock. The end of
    a run, Ctrl-C and SIGTERM always leave one."""
    keep: AtLeastOne = 3
    """Newest checkpoints that are kept; older ones but the best are removed."""


@config
class MetricsConfig(Settings):
    """How progress is measured."""

    window: AtLeastOne = 100
    """Latest episodes in the rolling means of return and length."""
    interval: NotNegative = 0
    """Environment steps between two rows of metrics, which tell the last iteration's losses; 0: a
    row for each iteration."""


@config
class AlgorithmConfig(Settings):
    """Every setting of a run as one frozen value: equal configs give equal runs."""

    name: ClassVar[str] = ""
    """Short name, as in the name of a run's directory; empty: made from the class's name."""
    algorithm_path: ClassVar[str] = ""
    """Where the algorithm is: `package.module:Class`. It is imported when the config is built."""
    supported_actions: ClassVar[frozenset[ActionKind]] = ALL_ACTIONS
    """Kinds of action spaces the algorithm can act in."""
    bounded_actions: ClassVar[bool] = False
    """Whether continuous actions must have finite bounds."""
    can_overlap: ClassVar[bool] = False
    """Whether `training_step` does what `env_runners.overlap` asks for."""

    env: Environment = "CartPole-v1"
    """Environment: an id (CartPole-v1, my_package.envs:Maze-v0), a registered name, a callable."""
    env_kwargs: Table = FrozenDict()
    """Arguments the environment is made with."""
    seed: NotNegative = 0
    """Root of every random stream of the run."""
    total_steps: AtLeastOne = 1_000_000
    """Budget of the run in environment steps, all environments together."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Discount of a reward one step later."""
    learning_rate: Positive = 3e-4
    """Step size of the optimizer."""
    learning_rate_final: Annotated[float, Field(ge=0)] | None = None
    """Learning rate at the end of the run, reached linearly over total_steps; none: constant."""
    hidden_sizes: tuple[AtLeastOne, ...] = (64, 64)
    """Units of each hidden layer."""
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "tanh"
    """Function between hidden layers."""
    image_encoder: Literal["nature", "impala"] = "nature"
    """Convolutions for images: nature (Mnih et al. 2015) or impala (residual, deeper, slower)."""
    encoder: Encoder = None
    """A torch.nn.Module of your own between observation and hidden layers, package.module:Class;
    none: categories one-hot, images through image_encoder."""
    encoder_kwargs: Table = FrozenDict()
    """Arguments it is made with, besides the observation space."""
    max_grad_norm: Positive | None = None
    """Euclidean norm to which the gradient of an update is scaled down; none: no limit."""
    normalize_observations: bool = False
    """Scale observations by their running mean and standard deviation."""
    normalize_rewards: bool = False
    """Scale rewards by the running standard deviation of the return."""
    env_runners: EnvRunnersConfig = EnvRunnersConfig()
    """How experience is collected."""
    learners: LearnersConfig = LearnersConfig()
    """How the network is trained."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where the parts of the run live."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the policy is tested."""
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    """What is kept to continue from."""
    metrics: MetricsConfig = MetricsConfig()
    """How progress is measured."""

    with_env_runners = section_update("env_runners", EnvRunnersConfig)
    with_learners = section_update("learners", LearnersConfig)
    with_runtime = section_update("runtime", RuntimeConfig)
    with_evaluation = section_update("evaluation", EvaluationConfig)
    with_checkpoints = section_update("checkpoints", CheckpointsConfig)
    with_metrics = section_update("metrics", MetricsConfig)

    def problems(self) -> Iterator[Problem]:
        """What does not fit together, whatever the algorithm."""
        elastic = self.env_runners.min > 0
        if elastic and self.runtime.engine == "inline":
            yield Problem("env_runners.min", "inline there are no processes that could be missing")
        if elastic and self.runtime.placement.startswith("strict"):
            yield Problem(
                "env_runners.min",
                f"runtime.placement {self.runtime.placement} holds for all runners or for none;"
                " write spread or pack",
            )
        yield from self._encoder_problems()
        if self.env_runners.overlap and not self.can_overlap:
            yield Problem(
                "env_runners.overlap",
                f"the training_step of {self.label()} samples nothing ahead (can_overlap is false);"
                " leave it out",
            )
        if self.runtime.engine == "ray" and self.env_runners.device.startswith("cuda"):
            yield Problem(
                "env_runners.device",
                f"{self.env_runners.device!r} is a GPU of this machine, but runtime.engine ray may"
                " place runners on any, and they choose actions on CPUs there; write cpu, or"
                " runtime.engine inline or process",
            )
        if self.runtime.engine == "inline" and self.learners.num > 1:
            yield Problem(
                "learners.num",
                f"{self.learners.num} learners must run at the same time, but runtime.engine inline"
                " has one process and runs one thing after the other; write runtime.engine process"
                " or learners.num 0",
            )

    def _encoder_problems(self) -> Iterator[Problem]:
        if self.encoder is None and self.encoder_kwargs:
            yield Problem("encoder_kwargs", "have no effect without encoder; leave them out")
        if self.encoder is not None and self.image_encoder != "nature":
            yield Problem(
                "image_encoder",
                f"{self.image_encoder!r} has no effect beside encoder, which sees images itself;"
                " leave one of them out",
            )

    @property
    def env_id(self) -> str:
        """The environment's printable name; for a callable, where it was defined."""
        if isinstance(self.env, str):
            return self.env
        owner = self.env if hasattr(self.env, "__qualname__") else type(self.env)
        return f"{owner.__module__}.{owner.__qualname__}"

    @property
    def runner_resources(self) -> Mapping[str, float]:
        """What each runner reserves."""
        on_cluster = self.runtime.address is not None
        return self.runtime.runner_resources or ({"cpu": 1.0} if on_cluster else {})

    @property
    def num_environments(self) -> int:
        """Environments of all runners together."""
        return self.env_runners.num * self.env_runners.envs_per_runner

    @classmethod
    def label(cls) -> str:
        """The algorithm's short name, for people and file names."""
        own: str = cls.__dict__.get("name", "")
        return own or cls.__name__.removesuffix("Config").lower()

    @classmethod
    def reference(cls) -> str:
        """What `train --algo` finds this class by: a name of ours, or `package.module:Class`."""
        if cls.__module__.startswith("rl.configs."):
            return cls.label()
        return f"{cls.__module__}:{cls.__qualname__}"

    def build(self) -> Algorithm[Any]:
        """Imports the algorithm and makes it ready to train; close it, or use it in a `with`."""
        module, _, name = self.algorithm_path.partition(":")
        if not name:
            raise NotImplementedError(
                f"{type(self).__name__}.algorithm_path is {self.algorithm_path!r}: a config names"
                " its algorithm there, as `package.module:Class`"
            )
        algorithm: Callable[[AlgorithmConfig], Algorithm[Any]]
        algorithm = getattr(importlib.import_module(module), name)
        return algorithm(self)
