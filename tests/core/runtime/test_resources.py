"""The ledger of resources never lends more than there is."""

import os
from pathlib import Path

import pytest

from rl.core.runtime import resources
from rl.core.runtime.resources import ResourceLedger, available_cpus
from rl.errors import ResourcesUnavailable, UsageError


def test_the_cores_of_this_process_are_there_unless_told_otherwise() -> None:
    assert ResourceLedger({}).total == {"cpu": available_cpus()}
    assert ResourceLedger({"cpu": 3, "gpu": 1}).total == {"cpu": 3, "gpu": 1}


def test_what_is_lent_is_lacking_until_it_is_given_back() -> None:
    ledger = ResourceLedger({"cpu": 2})
    ledger.take({"cpu": 1.5})
    assert ledger.lacking({"cpu": 0.5}) is None
    assert ledger.lacking({"cpu": 1}) == "1 cpu (free: 0.5 of 2)"
    ledger.give_back({"cpu": 1.5})
    assert ledger.lacking({"cpu": 2}) is None


def test_fractions_add_up_despite_rounding() -> None:
    ledger = ResourceLedger({"gpu": 0.3})
    ledger.take({"gpu": 0.1})
    assert ledger.lacking({"gpu": 0.2}) is None


def test_what_can_never_be_had_is_told_with_what_there_is() -> None:
    ledger = ResourceLedger({"cpu": 2})
    ledger.take({"cpu": 2})
    ledger.check({"cpu": 2}, "a")
    with pytest.raises(ResourcesUnavailable, match="'a' asks for 3 cpu, but there are 2"):
        ledger.check({"cpu": 3}, "a")
    with pytest.raises(ResourcesUnavailable, match="1 tpu, but there are 0"):
        ledger.check({"tpu": 1}, "a")


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_amounts_that_make_no_sense_are_refused(amount: float) -> None:
    with pytest.raises(UsageError, match="'cpu' is"):
        ResourceLedger({}).check({"cpu": amount}, "a")
    with pytest.raises(UsageError, match="'gpu' is"):
        ResourceLedger({"gpu": amount})


def quota_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, membership: str) -> None:
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")


@pytest.mark.parametrize(
    ("group", "quota", "cores"),
    [
        (".", "150000 100000", 2),
        ("pod", "300000 100000", 3),
        ("pod/box", "20000 100000", 1),
        ("pod/box", "max 100000", 8),
        ("pod/box", "1600000 100000", 8),
        ("other", "100000 100000", 8),
    ],
)
def test_a_container_has_the_cores_it_is_given_the_time_of(
    group: str, quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota_here(monkeypatch, tmp_path, "0::/pod/box\n")
    (tmp_path / group).mkdir(parents=True, exist_ok=True)
    (tmp_path / group / "cpu.max").write_text(quota + "\n")
    assert available_cpus() == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 8)])
def test_the_first_version_of_control_groups_says_it_in_two_files(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota_here(monkeypatch, tmp_path, "5:memory:/pod\n4:cpu,cpuacct:/pod\n")
    (tmp_path / "cpu" / "pod").mkdir(parents=True)
    (tmp_path / "cpu" / "pod" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "pod" / "cpu.cfs_period_us").write_text("100000")
    assert available_cpus() == cores


def test_what_says_nothing_of_limits_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota_here(monkeypatch, tmp_path, "nonsense")
    assert available_cpus() == 8
    (tmp_path / "membership").unlink()
    assert available_cpus() == 8
