"""Ports for nodes of a Ray cluster on this machine.

A node that is left to find its own ports gives its agents 15 seconds to tell them, which a busy
machine exceeds (ray-project/ray issue 65983).
"""

import contextlib
import socket

NAMES = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


def node_ports() -> dict[str, int]:
    """Returns arguments of a node: ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in NAMES]
        for one in sockets:
            one.bind(("", 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(NAMES, sockets, strict=True)}
