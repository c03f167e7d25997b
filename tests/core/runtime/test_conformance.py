"""Every engine passes the public conformance kit; the kit notices one that breaks it."""

from typing import Any

import pytest

from rl.core.runtime import Runtime
from rl.core.runtime.base import ActorSpec
from rl.core.runtime.inline import InlineEngine
from rl.testing.runtimes import RUNTIME_CHECKS, RuntimeCheck, check_runtime


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("check", RUNTIME_CHECKS, ids=lambda check: check.__name__)
def test_engine_keeps_the_contract(engine: str, check: RuntimeCheck) -> None:
    with Runtime(engine) as runtime:
        check(runtime)


class Forgetful(InlineEngine):
    """Gives every actor the state of a fresh one, and knows no resources."""

    def spawn(self, spec: ActorSpec[Any]) -> Any:
        handle = super().spawn(ActorSpec(spec.actor_class, spec.args, name=spec.name))
        call = handle.call

        def forget(*args: Any, **kwargs: Any) -> Any:
            handle.construct()  # type: ignore[attr-defined]
            return call(*args, **kwargs)

        handle.call = forget  # type: ignore[method-assign]
        return handle


def test_the_kit_tells_all_that_a_bad_engine_breaks() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        check_runtime(lambda: Runtime(Forgetful()))
    notes = {note for error in caught.value.exceptions for note in error.__notes__}
    assert "in check_calls_run_in_order" in notes
    assert "in check_impossible_resources" in notes
    assert "in check_wait" not in notes
