"""Two hosts in a box: a Ray head here, a node there, a cable between them, and a run of `train`.

    unshare --net --pid --fork --mount --mount-proc --kill-child=KILL \\
        python -m tests.cluster.box DIRECTORY -- ARGUMENTS OF TRAIN

The hosts are network namespaces, so that nothing can be reached from outside the box. A file `cut`
in the directory pulls the cable. Everything ends with this process, the first of its namespace.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

NEAR, FAR = "10.77.0.1", "10.77.0.2"
ADDRESS = f"{NEAR}:6379"
UNSHARE = ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child=KILL"]
NODE = [
    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
    *("--num-cpus", "2", "--object-store-memory", str(100 * 2**20)),
]


def main() -> int:
    """Builds the box; returns how the run ended."""
    directory, arguments = Path(sys.argv[1]), sys.argv[3:]
    inside_far = _hosts()
    head = ["--head", "--node-ip-address", NEAR, "--port", "6379", "--include-dashboard=false"]
    _start([*NODE, *head], directory / "near.log")
    time.sleep(1)
    there = ["--address", ADDRESS, "--node-ip-address", FAR]
    _start([*inside_far, *NODE, *there], directory / "far.log")
    _wait_for_nodes(2)
    run = subprocess.Popen([sys.executable, "-m", "rl", "train", *arguments])
    connected = True
    while run.poll() is None:
        if connected and (directory / "cut").exists():
            _do("ip link set near down")
            connected = False
        time.sleep(0.05)
    return run.returncode


def _hosts() -> list[str]:
    """Makes the far host and the cable; returns what runs a command there."""
    Path("/tmp/ray").mkdir(exist_ok=True)
    _do("mount -t tmpfs none /tmp/ray")  # Ray's files, for this box alone
    far = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    here = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{far.pid}/ns/net").readlink() == here:
        time.sleep(0.01)
    inside_far = f"nsenter --target {far.pid} --net"
    _do(f"ip link add near type veth peer name far netns {far.pid}")
    for inside, name, address in (("", "near", NEAR), (inside_far, "far", FAR)):
        _do(f"{inside} ip link set lo up")
        _do(f"{inside} ip addr add {address}/24 dev {name}")
        _do(f"{inside} ip link set {name} up")
    return inside_far.split()


def _wait_for_nodes(number: int) -> None:
    from ray._raylet import GcsClient

    while len(GcsClient(address=ADDRESS).get_all_node_info()) < number:
        time.sleep(0.2)


def _do(command: str) -> None:
    subprocess.run(command.split(), check=True)


def _start(command: list[str], log: Path) -> None:
    with log.open("wb") as output:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


if __name__ == "__main__":
    sys.exit(main())
