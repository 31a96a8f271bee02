"""Arguments for nodes of a Ray cluster on this machine, so that they start on a busy one too.

A node gives its agents 15 seconds to tell the ports that they found, which a busy machine exceeds
(ray-project/ray issue 65983). So the ports are given, and what only costs time is left out.
"""

import contextlib
import socket

NAMES = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


def node_arguments() -> dict[str, int]:
    """Returns arguments of a node: ports that are free now, and no autoscaler."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in NAMES]
        for one in sockets:
            one.bind(("", 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
    return {**dict(zip(NAMES, ports, strict=True)), "no_monitor": True}
