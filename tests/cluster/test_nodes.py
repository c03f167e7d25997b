"""On a cluster of several nodes: nodes die, nodes come, and the run is the one it would have been.

Runners are held in the middle of a fragment while their nodes are killed, so that what a death
costs does not depend on the moment.
"""

import time
from pathlib import Path

import pytest

from tests.cluster.counted import held, hold, release
from tests.cluster.nodes import cluster, running
from tests.cluster.outcome import MIDDLE, calm, check_outcome, on_ray, settings

pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_variables"),
]


def test_a_node_killed_in_a_fragment_costs_that_fragment_alone(tmp_path: Path) -> None:
    """Both nodes have room for both runners: they are spread, and then one node has the two."""
    same = settings(2, 1536)
    hold(tmp_path, at=MIDDLE)
    with cluster(head_cpus=2) as nodes:
        second = nodes.begin(cpus=2)
        expected = calm(tmp_path / "calm", same)
        nodes.wait()
        with running(tmp_path / "run", same + on_ray(nodes.address, tmp_path)) as run:
            run.until(lambda: len(held(tmp_path)) == 2)
            assert sorted(held(tmp_path).values()) == sorted([nodes.head, second.node_id])
            nodes.kill(second, held(tmp_path))
            release(tmp_path)
            run.end()
    check_outcome(run, tmp_path, expected, steps=1536, lost=1)


@pytest.mark.slow
def test_runners_wait_for_the_node_that_replaces_a_dead_one(tmp_path: Path) -> None:
    """strict_spread: a node each, or none."""
    same = settings(2, 1536)
    hold(tmp_path, at=MIDDLE)
    expected = calm(tmp_path / "calm", same)
    with cluster(head_cpus=0) as nodes:
        first = nodes.add(cpus=2)
        arguments = same + on_ray(nodes.address, tmp_path, "--runtime.placement", "strict_spread")
        with running(tmp_path / "run", arguments) as run:
            run.until(lambda: "no room yet for 2 x 1 cpu (strict_spread)" in run.log.read_text())
            second = nodes.add(cpus=2)
            run.until(lambda: len(held(tmp_path)) == 2)
            assert sorted(held(tmp_path).values()) == sorted([first.node_id, second.node_id])
            nodes.kill(second, held(tmp_path))
            release(tmp_path)
            run.until(lambda: "waits for 1 cpu" in run.log.read_text())
            nodes.add(cpus=1)
            run.end()
    check_outcome(run, tmp_path, expected, steps=1536, lost=1)


@pytest.mark.slow
def test_elastic_runners_use_what_is_there_and_the_bits_do_not_tell(tmp_path: Path) -> None:
    """One process for four runners, then four on two nodes, then three."""
    steps = 61_440
    same = settings(4, steps, "--env-runners.min", "1")
    expected = calm(tmp_path / "calm", settings(4, steps))
    hold(tmp_path, at=MIDDLE)
    with cluster(head_cpus=0) as nodes:
        first = nodes.add(cpus=1)
        with running(tmp_path / "run", same + on_ray(nodes.address, tmp_path)) as run:
            run.until(lambda: list(held(tmp_path).values()) == [first.node_id])
            assert run.last("sampler/alive") == 1
            second = nodes.add(cpus=3)
            run.until(lambda: nodes.free_cpus() == 0)
            time.sleep(2)  # for the processes to answer; the run is long enough without
            release(tmp_path)
            run.until(lambda: run.last("sampler/alive") == 4)
            hold(tmp_path, at=0)
            run.until(lambda: len(held(tmp_path)) == 4)
            assert sorted(held(tmp_path).values()) == sorted([first.node_id, *[second.node_id] * 3])
            nodes.kill(first, held(tmp_path))
            release(tmp_path)
            run.end()
    assert run.last("sampler/alive") == 3
    check_outcome(run, tmp_path, expected, steps, lost=1)
