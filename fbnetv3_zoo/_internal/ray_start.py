"""Connecting to Ray (extra `ray`), in the same way wherever the package uses it."""

from __future__ import annotations

import logging
import os

from .messages import one_line
from .optional import need

# Of `uv run`: see `need_ray`. Ray reads it when it is imported.
_UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
_HERE = (None, "local")


def need_ray(address: str | None) -> None:
    """Imports Ray, with the settings that it reads at that moment.

    Under `uv run`, Ray would start its workers by the same command line, in a copy of the project's
    folder. A program that is named by a relative path, as in `.uv/bin/uv run`, is not in the copy:
    no worker would start, and the driver would wait forever. A cluster on this machine needs no
    copy. What a user set is kept.

    Args:
        address: address of the cluster, as for `start_ray`.

    Raises:
        ImportError: Ray is not installed.
    """
    if address in _HERE and not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(_UV_HOOK, "0")
    # Ray's advice, and what it says about its own actors' arguments, are not for the user's eyes.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    need("ray")


def start_ray(address: str | None) -> bool:
    """Connects to a cluster; returns False if there is a connection, which is then used.

    Args:
        address: address of the cluster; None starts or joins one on this machine, unless the
            variable RAY_ADDRESS names another.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster answers at the address.
    """
    need_ray(address)
    import ray

    if ray.is_initialized():
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster at {address or 'this machine'} ({one_line(str(error))}); start one "
            "with `ray start --head`, or leave out the address for a cluster on this machine"
        ) from error
    return True
