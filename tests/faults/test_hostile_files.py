"""What comes from elsewhere is data: it imports nothing, names nothing outside, and is refused."""

from __future__ import annotations

import json
import random
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import rl
from rl.cli.main import rl_main, train_main
from rl.core.records.checkpoint import read_checkpoint, write_checkpoint
from rl.core.records.run_directory import run_name
from rl.errors import RLError, UsageError
from tests.faults.runs import settings, write_config

EVIL = """
from pathlib import Path
from gymnasium.envs.classic_control import CartPoleEnv
import gymnasium
import rl
Path("canary").touch()
if "Evil-v0" not in gymnasium.registry:
    gymnasium.register("Evil-v0", CartPoleEnv)

@rl.configs.config
class EvilConfig(rl.PPOConfig):
    pass
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MY_API_TOKEN", "canary-in-the-environment")
    (tmp_path / "evil.py").write_text(EVIL)
    sys.modules.pop("evil", None)


def _run_that_names(values: dict[str, Any]) -> None:
    """A run as somebody else might hand it over: sound, but its config names a module."""
    quick = settings("ppo", "inline", total_steps=128)
    write_config(Path("config.yaml"), quick)
    assert train_main(["--config", "config.yaml", "--run-dir", "run"]) == 0
    (checkpoint,) = (Path("run") / "checkpoints").glob("step_*")
    sound = read_checkpoint(checkpoint)
    files: dict[str, Any] = {name: (checkpoint / name).read_bytes() for name in sound.files}
    files["config.yaml"] = json.dumps({**quick, **values}).encode()
    shutil.rmtree(checkpoint)
    write_checkpoint(checkpoint, files, sound.meta)
    Path("run/config.yaml").write_bytes(files["config.yaml"])
    Path("run/result.json").unlink()


@pytest.mark.fault(
    "a config, run or checkpoint names a module to import",
    "code 2, nothing is imported; --trust MODULE, or having imported it, allows it",
)
@pytest.mark.parametrize("named", [{"algo": "evil:EvilConfig"}, {"env": "evil:Evil-v0"}])
def test_a_file_imports_nothing_by_itself(
    named: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _run_that_names(named)
    capsys.readouterr()
    for command in (
        ["train", "--config", "run/config.yaml", "--run-dir", "new"],
        ["train", "--resume", "run"],
        ["evaluate", "run"],
        ["evaluate", "run/checkpoints/latest"],
    ):
        assert rl_main(command) == 2, command
        assert "--trust evil" in capsys.readouterr().err
    for path in ("run", "run/checkpoints/latest"):
        with pytest.raises(UsageError, match="--trust evil"):
            rl.Algorithm.load(path)
    assert not Path("canary").exists()
    assert rl_main(["evaluate", "run", "--episodes", "1", "--trust", "evil"]) == 0
    assert Path("canary").exists()
    rl.Algorithm.load("run").close()  # it has been imported now


@pytest.mark.fault("YAML tags that make objects", "code 2, nothing is made")
@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "env: !!python/name:os.system",
        "env_kwargs: {x: !!python/object/apply:os.mkdir ['canary']}",
    ],
)
def test_yaml_makes_no_objects(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(text)
    assert train_main(["--config", "config.yaml"]) == 2
    assert not Path("canary").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.fault(
    "a checkpoint with right sums that holds something else",
    "an error of ours that names it; never a traceback, never another run",
)
def test_a_sound_checkpoint_with_other_content_is_refused() -> None:
    _run_that_names({})
    checkpoint = Path("run/checkpoints/latest").resolve()
    sound, chance = read_checkpoint(checkpoint), random.Random(5)
    texts = [name for name in sound.files if name.endswith(".json")]
    assert len(texts) >= 4
    refused = []
    for number in range(40):
        files: dict[str, Any] = {name: (checkpoint / name).read_bytes() for name in sound.files}
        name = texts[number % len(texts)]
        files[name] = json.dumps(_mangled(json.loads(files[name]), chance)).encode()
        path = Path(f"mangled-{number}")
        write_checkpoint(path, files, sound.meta)
        try:
            rl.Algorithm.load(path).close()
        except RLError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert [message for message in refused if "mangled-" not in message] == []


def _mangled(value: Any, chance: random.Random) -> Any:
    """The same JSON with one value in it replaced by something unfit."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        return {**value, key: _mangled(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [_mangled(v, chance) if i == place else v for i, v in enumerate(value)]
    return chance.choice([None, "x", [], {}, [[]], -1, {"a": 1}, "../../x"])


@pytest.mark.fault("hostile names of environments and algorithms", "one plain component of a path")
@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "a\0b", "a\nb", "..", "-x", "x" * 300, "😀", "a/b:c", "\x1b[31m"]
)
def test_no_name_leaves_the_directory_of_runs(name: str) -> None:
    made = run_name(name, name, 1, datetime(2026, 1, 31))
    assert Path(made).name == made
    assert not made.startswith((".", "-"))
    assert made.isascii()
    assert made.isprintable()
    assert len(made) < 255


@pytest.mark.fault("secrets in environment variables", "no file of a run holds them")
def test_no_file_of_a_run_holds_the_environment() -> None:
    _run_that_names({})
    texts = [path.read_bytes() for path in Path("run").rglob("*") if path.is_file()]
    assert len(texts) > 10
    assert not any(b"canary-in-the-environment" in text for text in texts)
