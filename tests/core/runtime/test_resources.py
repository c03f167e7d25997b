"""The ledger of resources never lends more than there is."""

import pytest

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
