"""Where on a Ray cluster actors are put: bundles of a placement group, reserved together."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl.core.runtime.base import Place
from rl.core.runtime.ray_cluster import RayOptions, ray_resources, room, words
from rl.errors import ResourcesUnavailable, UsageError

__all__ = ["Bundle", "Placements", "Unreserved", "strategy_of"]

logger = logging.getLogger(__name__)

SOON_S = 3.0
"""Room that is there is found by then; longer than that, the user is told that we wait."""


@dataclass(frozen=True)
class Bundle:
    """One place in a placement group."""

    group: Any
    index: int
    placed: Any
    """Asks Ray whether the group has its room now: a dead node takes it away."""


@dataclass(frozen=True)
class Unreserved:
    """A wish where to be."""

    strategy: str
    patient: bool
    """Whether its actor waits for room however long: others do the work meanwhile."""


class Placements:
    """The placement groups of one runtime."""

    def __init__(self, ray: Any, options: RayOptions) -> None:
        self._ray = ray
        self._options = options
        self._groups: list[Any] = []

    def place(
        self, requests: Sequence[Mapping[str, float]], strategy: str, reserve: bool
    ) -> list[Place]:
        """See `Runtime.place`. Waits for nodes that may come, `placement_timeout` at most."""
        if not reserve or not all(any(request.values()) for request in requests):
            if strategy.startswith("strict"):
                raise UsageError(
                    f"place: {strategy} reserves what each actor takes; give it resources, as "
                    '{"cpu": 1}, and no elastic runners.'
                )
            return [Place(dict(request), Unreserved(strategy, not reserve)) for request in requests]
        there = room(self._ray)
        asked = f"{len(requests)} x {words(requests[0])} ({strategy})"
        logger.info("ray: asking for %s; the cluster has %s", asked, there)
        api = importlib.import_module("ray.util.placement_group")
        group = api.placement_group(
            [ray_resources(request) for request in requests], strategy=strategy.upper()
        )
        self._groups.append(group)
        patience = SOON_S if self._options.address is None else self._options.placement_timeout
        if not group.wait(min(SOON_S, patience)):
            if patience > SOON_S:
                logger.warning("ray: no room yet for %s; the cluster has %s", asked, there)
            if patience <= SOON_S or not group.wait(patience - SOON_S):
                raise ResourcesUnavailable(self._refusal(asked))

        def placed() -> bool:
            state: str = api.placement_group_table(group)["state"]
            return state == "CREATED"

        return [
            Place(dict(request), Bundle(group, index, placed))
            for index, request in enumerate(requests)
        ]

    def close(self) -> None:
        """Gives every bundle back."""
        api = importlib.import_module("ray.util.placement_group")
        for group in self._groups:
            api.remove_placement_group(group)
        self._groups.clear()

    def _refusal(self, asked: str) -> str:
        free = self._ray.available_resources()
        left = words({name.lower(): free.get(name, 0.0) for name in ("CPU", "GPU")})
        return (
            f"there is no room for {asked}: the cluster has {room(self._ray)}, of which {left} is "
            "free. Ask for fewer or smaller actors, add nodes, or raise runtime.placement_timeout "
            "where nodes are still to come."
        )


def strategy_of(place: Place | None) -> Any:
    """What Ray calls the scheduling strategy of an actor at that place."""
    if place is not None and isinstance(place.key, Bundle):
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.PlacementGroupSchedulingStrategy(
            place.key.group, placement_group_bundle_index=place.key.index
        )
    wish = place.key if place is not None else None
    spread = isinstance(wish, Unreserved) and wish.strategy == "spread"
    return "SPREAD" if spread else "DEFAULT"
