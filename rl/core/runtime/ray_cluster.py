"""The connection to Ray: joined or started, shared within the process, left as it was found.

The only file that imports ray, and only when an engine is made.
"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rl.core.runtime.nursery import ONE_THREAD
from rl.errors import RuntimeFault, UsageError

__all__ = [
    "ONE_THREAD_EACH",
    "RayOptions",
    "Room",
    "connect",
    "disconnect",
    "load_ray",
    "ray_resources",
    "room",
    "words",
]

logger = logging.getLogger(__name__)

ONE_THREAD_EACH = dict.fromkeys(ONE_THREAD, "1")
"""Bits depend on it, and Ray would set OMP_NUM_THREADS to the processors that an actor reserves."""
CONNECT_S = 5.0
"""For the first word of a cluster's head; Ray itself would ask for minutes."""
_NAMES = {"cpu": "CPU", "gpu": "GPU"}
_lock = threading.Lock()
_shared: list[_Connection] = []


@dataclass(frozen=True)
class RayOptions:
    """What a Ray engine is made with, beside what every engine takes."""

    address: str | None = None
    """`auto` or host:port of a running cluster; none: a Ray of our own on this machine."""
    namespace: str | None = None
    """In which the actors are named; none: one of its own for each runtime."""
    working_dir: str | None = None
    """Directory that is copied to every node, where workers start and import from."""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of every worker."""
    placement_timeout: float = 30.0
    """Seconds that room for an actor may take to appear where no node has it."""
    object_store_memory: int | None = None
    """Bytes of the object store of a Ray of our own; none: Ray's default, 30 % of the memory."""

    @property
    def place(self) -> tuple[str | None, str | None]:
        """What the engines of one process must agree on."""
        return self.address, self.working_dir


@dataclass
class _Connection:
    """Of this process to a cluster, with the number of engines that use it."""

    options: RayOptions
    ours: bool
    users: int = 0


def load_ray() -> Any:
    """The package. Raises `UsageError` where the extra is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as missing:
        raise UsageError(
            "the engine `ray` needs the package ray, which is not installed: "
            "pip install 'rl-platform[ray]'. Or use the engine `process`."
        ) from missing


def ray_resources(request: Mapping[str, float]) -> dict[str, float]:
    """Our names of resources as Ray writes them; others are its custom resources."""
    return {_NAMES.get(name, name): amount for name, amount in request.items()}


def connect(options: RayOptions, resources: Mapping[str, float]) -> None:
    """Joins the cluster, or starts a Ray of this machine with `resources`.

    A process has one connection, which several engines may share. One that somebody else made is
    used as it is.

    Raises:
        UsageError: There is no such cluster, it does not let us in, or this process is connected to
            another one already.
    """
    ray = load_ray()
    _check_address(options.address)
    with _lock:
        if not _shared or not ray.is_initialized():
            _shared.clear()
            theirs = ray.is_initialized()
            if not theirs:
                _initialise(ray, options, resources)
            elif options.working_dir is not None:
                raise UsageError(
                    f"runtime.working_dir {options.working_dir!r}: this process called ray.init() "
                    "already, and what is copied to the nodes is said there. Give it to ray.init()."
                )
            _shared.append(_Connection(options, ours=not theirs))
        connection = _shared[0]
        wanted = options.place
        if connection.ours and wanted != (joined := connection.options).place:
            raise UsageError(
                f"this process is connected to Ray at {joined.place}, and a second runtime cannot "
                f"have one at {wanted}: address and working_dir. Shut the first down before."
            )
        connection.users += 1


def disconnect() -> None:
    """Lets go; the last one stops what `connect` started, and leaves a cluster it joined alone."""
    with _lock:
        if not _shared:
            return
        connection = _shared[0]
        connection.users -= 1
        if connection.users == 0:
            _shared.clear()
            if connection.ours:
                load_ray().shutdown()


def _initialise(ray: Any, options: RayOptions, resources: Mapping[str, float]) -> None:
    settings: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if options.address is not None:
        settings["address"] = options.address
    else:
        rest = {name: amount for name, amount in resources.items() if name not in _NAMES}
        settings |= {
            "address": "local",
            "num_cpus": int(resources["cpu"]),
            "num_gpus": resources.get("gpu"),
            "resources": rest or None,
            "include_dashboard": False,
            "object_store_memory": options.object_store_memory,
        }
    if options.working_dir is not None:
        settings["runtime_env"] = {"working_dir": options.working_dir}
    where = f"runtime.address {options.address!r}" if options.address else "a Ray of this machine"
    with _quietly():
        try:
            ray.init(**settings)
        except ray.exceptions.AuthenticationError as error:
            raise UsageError(
                f"{where}: the cluster asks for a token, and this process has none or another. Set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's; "
                f"it was made on the head with `ray get-auth-token --generate`. ({error})"
            ) from error
        except ConnectionError as error:
            raise UsageError(
                f"{where}: no Ray answers there ({_first_line(error)}). Start one with "
                "`ray start --head`, or leave the address out to have one on this machine."
            ) from error
        except (RuntimeError, ValueError, OSError) as error:
            raise RuntimeFault(f"{where}: Ray could not be started or joined: {error}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps Ray's advice to itself, and our handler of SIGTERM, which it replaces."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if in_main else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)


def _check_address(address: str | None) -> None:
    if address is None or address in ("auto", "local"):
        if address == "local":
            raise UsageError("runtime.address 'local': leave it out to have a Ray of this machine.")
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"runtime.address {address!r}: give `auto` or host:port of the head. The driver runs "
            "inside the cluster: submit it with `ray job submit`; ray:// clients are not supported."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UsageError(
            f"runtime.address {address!r}: nothing answers there within {CONNECT_S:g} s ({error}). "
            "Start a head with `ray start --head`, or correct the address."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@dataclass(frozen=True)
class Room:
    """What the nodes of a cluster have."""

    nodes: Sequence[Mapping[str, float]]
    """Of each living node, by our names."""

    def fits(self, request: Mapping[str, float]) -> bool:
        """Whether some node, empty, could hold the request."""
        return any(
            all(node.get(name, 0.0) >= amount for name, amount in request.items() if amount)
            for node in self.nodes
        )

    def __str__(self) -> str:
        def amount(node: Mapping[str, float]) -> str:
            return words(node)

        if len(self.nodes) == 1:
            return f"1 node with {amount(self.nodes[0])}"
        each = "; ".join(amount(node) for node in self.nodes[:8])
        more = "; ..." if len(self.nodes) > 8 else ""
        return f"{len(self.nodes)} nodes ({each}{more})"


def words(request: Mapping[str, float]) -> str:
    """`1 cpu, 0.5 gpu`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in request.items()) or "nothing"


def room(ray: Any) -> Room:
    """Asks the cluster. Ray's own bookkeeping (memory, one resource for each node) is left out."""
    ours = {theirs: name for name, theirs in _NAMES.items()}
    return Room(
        [
            {
                ours.get(name, name): amount
                for name, amount in node["Resources"].items()
                if name not in ("memory", "object_store_memory")
                and not name.startswith(("node:", "accelerator_type:"))
            }
            for node in ray.nodes()
            if node["Alive"]
        ]
    )
