"""Ray clusters on this machine whose nodes start on a busy one too.

A node gives its agent 15 seconds to write the port on which it listens into a file, too few on a
busy machine (ray-project/ray issue 65983). Here ports are given, and the file is written at once.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SESSIONS = Path("/tmp/ray")
LISTEN = "dashboard_agent_listen_port"
PORTS = (LISTEN, "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")


@contextlib.contextmanager
def ray_cluster(*, num_cpus: int) -> Iterator[Any]:
    """Gives a cluster of one node, and the driver's connection to it."""
    ray: Any = importlib.import_module("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster()
    try:
        add_node(cluster, num_cpus=num_cpus, include_dashboard=False, no_monitor=True)
        ray.init(cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any, **fields: Any) -> Any:
    """Returns a new node of a cluster."""
    name, ports, started = secrets.token_hex(28), _free_ports(), threading.Event()

    def tell() -> None:
        while not started.wait(0.2):
            for session in SESSIONS.glob("session_2*"):
                path = session / f"{LISTEN}_{name}"
                if not path.exists():
                    path.write_text(str(ports[LISTEN]))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        return cluster.add_node(
            env_vars={"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name}, **ports, **fields
        )
    finally:
        started.set()
        thread.join()
        for path in SESSIONS.glob(f"session_2*/{LISTEN}_{name}"):
            if path.parent != (SESSIONS / "session_latest").resolve():
                path.unlink()


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
        for one in sockets:
            one.bind(("", 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
    return dict(zip(PORTS, ports, strict=True))
