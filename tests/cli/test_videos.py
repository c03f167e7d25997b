"""Videos of evaluations: when, where, of what, and what is said where there can be none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl.algorithms.videos import video_due
from rl.cli.main import rl_main, train_main
from rl.configs.ppo import PPOConfig
from rl.env_runners.recording import as_gif

imageio: Any = pytest.importorskip("imageio.v2")

SHORT = "--no-preset --rollout-length 16 --minibatch-size 16 --num-epochs 1"


class Lamp(gymnasium.Env[Any, Any]):
    """Episodes of five steps; its picture is as bright as the step is late."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 5, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, self.steps == 5, False, {}

    def render(self) -> Any:
        return np.full((64, 700, 3), 50 * self.steps, np.uint8)


class Dark(Lamp):
    """Has no such mode."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012


class Deaf(Lamp):
    """Says that it has the mode, and cannot be told to use it."""

    def __init__(self) -> None:
        super().__init__()


class Blank(Lamp):
    def render(self) -> Any:
        return None


ENVIRONMENTS = {"Lamp-v0": Lamp, "Dark-v0": Dark, "Deaf-v0": Deaf, "Blank-v0": Blank}


@pytest.fixture(autouse=True)
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name, kind in ENVIRONMENTS.items():
        gymnasium.register(name, kind)
    yield
    for name in ENVIRONMENTS:
        del gymnasium.registry[name]


def train(words: str, env: str = "Lamp-v0", run: str = "first") -> int:
    evaluation = "--evaluation.num-episodes 1"
    return train_main(f"--env {env} --run-dir {run} {SHORT} {evaluation} {words}".split())


def in_tensorboard(run: Path) -> dict[int, Any]:
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] in ([], ["eval/video"])
    return {image.step: image for image in events.Images("eval/video")}


def test_every_second_evaluation_has_one_and_the_last(tmp_path: Path) -> None:
    assert train("--total-steps 80 --evaluation.interval 16 --evaluation.video-interval 2") == 0
    run = tmp_path / "first"
    images = in_tensorboard(run)
    assert list(images) == [32, 64, 80]
    files = sorted(path.name for path in (run / "videos").iterdir())
    assert files == ["step_000000032.gif", "step_000000064.gif", "step_000000080.gif"]
    # One pixel in three is left of 700, so that no side is over 320.
    assert (images[32].height, images[32].width) == (22, 234)
    assert (run / "videos" / files[0]).read_bytes() == images[32].encoded_image_string
    frames = imageio.mimread(io.BytesIO(images[32].encoded_image_string), format="gif")
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 50, 100, 150, 200, 250]
    assert np.asarray(frames[0]).shape[:2] == (22, 234)


def test_without_it_there_are_none_and_nothing_else_is_different(tmp_path: Path) -> None:
    assert train("--total-steps 32 --evaluation.interval 16") == 0
    assert train("--total-steps 32 --evaluation.video-interval 1", run="second") == 0
    assert not (tmp_path / "first/videos").exists()
    assert [*in_tensorboard(tmp_path / "second")] == [32]
    plain, filmed = (
        (tmp_path / name / "policy/weights.safetensors").read_bytes()
        for name in ("first", "second")
    )
    assert plain == filmed


def test_a_resumed_run_goes_on_with_its_videos(tmp_path: Path) -> None:
    words = "--total-steps 32 --evaluation.interval 16 --evaluation.video-interval 1"
    assert train(words) == 0
    run = tmp_path / "first"
    assert train_main(["--resume", str(run), "--total-steps", "64"]) == 0
    assert [*in_tensorboard(run)] == [16, 32, 48, 64]


@pytest.mark.parametrize(
    ("settings", "steps", "due"),
    [
        ({"interval": 10, "video_interval": 0}, 20, False),
        ({"interval": 10, "video_interval": 3}, 20, False),
        ({"interval": 10, "video_interval": 3}, 30, True),
        ({"interval": 10, "video_interval": 3}, 33, True),
        ({"interval": 10, "video_interval": 3}, 40, False),
        ({"interval": 10, "video_interval": 3}, 100, True),
        ({"interval": 0, "video_interval": 1}, 50, False),
        ({"interval": 0, "video_interval": 1}, 104, True),
        ({"interval": 0, "video_interval": 0}, 104, False),
    ],
)
def test_when_one_is_due(settings: dict[str, int], steps: int, due: bool) -> None:
    config = PPOConfig(total_steps=100).with_evaluation(**settings)
    assert video_due(config, steps) is due


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("Dark-v0", "its metadata['render_modes'] is ['human']; a video needs the render mode"),
        ("Deaf-v0", "its constructor does not take render_mode; a video needs the render mode"),
        ("Blank-v0", "render() gave NoneType, not a picture [H, W, 3] of bytes; a video needs"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_what_cannot_be_rendered_is_refused_with_the_fix(
    env: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--total-steps 16 --evaluation.video-interval 1", env) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "and return a picture [H, W, 3] of bytes from render()" in told
    assert [*tmp_path.iterdir()] == []  # nothing began
    assert train("--total-steps 16", env) == 0
    capsys.readouterr()
    assert rl_main(["record", "first", "--out", "a.gif"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.gif").exists()


def test_a_library_that_is_missing_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio", None)
    assert train("--total-steps 16 --evaluation.video-interval 1") == 2
    assert "needs the extra 'video', which is not installed" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_an_interval_without_evaluations_to_choose_from_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("--total-steps 16 --evaluation.video-interval 2") == 2
    assert "2 has no effect while there is one evaluation" in capsys.readouterr().err


def test_a_disk_that_refuses_costs_the_file_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rl.algorithms.videos.write_atomically", refuse)
    assert train("--total-steps 16 --evaluation.video-interval 1") == 0
    assert "No space left on device; training goes on" in capsys.readouterr().out
    assert [*in_tensorboard(tmp_path / "first")] == [16]


def test_small_pictures_are_not_made_smaller() -> None:
    frames = [np.zeros((8, 20, 3), np.uint8)]
    assert as_gif(frames, 10, 20)[1:] == (8, 20)
    assert as_gif(frames, 10, 19)[1:] == (4, 10)
