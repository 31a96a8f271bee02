"""The command line that runs this program again in an environment of its own.

For libraries that need another torch than the installed one, so that no extra can bring them.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

_DISTRIBUTION, _PROGRAM = "fbnetv3-zoo", "fbnetv3"
# Where there is no command line, as in a notebook.
_EXAMPLE = ["export", "NAME", "-o", "FILE"]


def command_elsewhere(*libraries: str) -> str:
    """Returns one line for a shell: the running command, in a new environment with the libraries.

    It is for uv where that is on the path, else for venv and pip; the environment has this package
    from where it was installed.

    Args:
        libraries: requirements to install beside this package.
    """
    arguments = shlex.join(_arguments())
    if shutil.which("uv"):
        added = shlex.join(word for library in libraries for word in ("--with", library))
        return f"uv tool run --from {shlex.quote(_source())} {added} {_PROGRAM} {arguments}"
    folder = f"{_PROGRAM}-env"
    return (
        f"{shlex.quote(sys.executable)} -m venv {folder} && "
        f"{folder}/bin/pip install {shlex.join([_source(), *libraries])} && "
        f"{folder}/bin/{_PROGRAM} {arguments}"
    )


def _arguments() -> list[str]:
    program = Path(sys.argv[0])
    ours = program.stem == _PROGRAM or program.resolve().parent == Path(__file__).parents[1]
    return sys.argv[1:] if ours else _EXAMPLE


def _source() -> str:
    """Returns what to give to an installer to get this package as it is installed here."""
    try:
        found = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:  # on the path of Python only
        return str(Path(__file__).parents[2])
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    if "url" in origin:
        return str(origin["url"]).removeprefix("file://")
    return f"{_DISTRIBUTION}=={found.version}"
