"""A real Ray cluster of several nodes on this machine, and runs of `train` that join it.

Each node is a raylet with processes of its own, started here and ended by its handle: nothing that
another test or person started is touched. Each has an address of its own under 127.0.0.0/8, so that
nothing is open to other machines.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
"""The machine may be busy with other tests."""
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}
"""Ray would notice after a quarter of a minute that a node is gone."""
TRAIN = (sys.executable, "-m", "rl", "train")
SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


class Nodes:
    """The nodes of a cluster."""

    def __init__(self, head_cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self._hosts = 1
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **SMALL,
                "node_ip_address": self._next_address(),
                "num_cpus": head_cpus,
                "_system_config": HEALTH,
            },
        )
        self.address: str = self._cluster.address
        self.head: str = self._cluster.head_node.node_id

    def begin(self, cpus: int) -> Any:
        """Starts one more node, and does not wait for it."""
        address = self._next_address()
        return self._cluster.add_node(wait=False, num_cpus=cpus, node_ip_address=address, **SMALL)

    def wait(self) -> None:
        """Until all nodes have joined."""
        self._cluster.wait_for_nodes(timeout=PATIENCE_S)

    def add(self, cpus: int) -> Any:
        """One more node, which has joined."""
        node = self.begin(cpus)
        self.wait()
        return node

    def free_cpus(self) -> float:
        """That no actor has reserved."""
        return float(self._cluster.global_state.available_resources().get("CPU", 0.0))

    def kill(self, node: Any, held: Mapping[int, str]) -> None:
        """SIGKILL for all that the node consists of, its actors at once: `held` says where each is.

        They would end by themselves, but could do some more work before.
        """
        self._cluster.remove_node(node, allow_graceful=False)
        for pid, its_node in held.items():
            if its_node == node.node_id:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the nodes that are left; there is nothing to wait for any more."""
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self.kill(node, {})

    def _next_address(self) -> str:
        # Not 127.0.0.1, which Ray takes to mean the machine's address in the network.
        self._hosts += 1
        return f"127.0.0.{self._hosts}"


@contextmanager
def cluster(head_cpus: int) -> Iterator[Nodes]:
    """A cluster that does not outlive its test."""
    nodes = Nodes(head_cpus)
    try:
        yield nodes
    finally:
        nodes.close()


class Run:
    """`rl train` in a process of its own."""

    def __init__(
        self, directory: Path, arguments: Sequence[str], command: Sequence[str] = TRAIN
    ) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments, "--run-dir", str(directory)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def until(self, ready: Callable[[], bool]) -> None:
        """Waits for something to happen while the run goes on."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def end(self) -> str:
        """Waits for the run to end well; returns what it said."""
        code = self.process.wait(PATIENCE_S)
        text = self.log.read_text()
        assert code == 0, text
        return text

    def last(self, metric: str) -> float:
        """As the newest row of an iteration tells it; nan before the first."""
        file = self.directory / "progress.csv"
        if not file.exists():
            return float("nan")
        with file.open(newline="") as lines:
            values = [row.get(metric) for row in csv.DictReader(lines) if row.get("sampler/alive")]
        return float(values[-1] or "nan") if values else float("nan")


@contextmanager
def running(
    directory: Path, arguments: Sequence[str], command: Sequence[str] = TRAIN
) -> Iterator[Run]:
    """A run that does not outlive its test."""
    run = Run(directory, arguments, command)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()
