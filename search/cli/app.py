"""The program `fbnetv3-search`: its commands in the order of its help.

Exit codes are in `fbnetv3.cli.group`.
"""

from __future__ import annotations

from fbnetv3.cli.group import Program

from . import ask as cli_ask
from . import existing as cli_existing
from . import finish as cli_finish
from . import run as cli_run
from . import scale as cli_scale
from . import spaces as cli_spaces

app = Program(
    "Neural Architecture-Recipe Search (NARS): find a network and its recipe.",
    {
        "Search": ("run", "resume", "status", "report"),
        "Results": ("finish", "export", "scale"),
        "Predictor": ("predict", "evolve"),
        "Spaces": ("space", "latency-table"),
        "Other": ("bench", "rebuild"),
    },
    "Both are searched together, within limits on the network's cost. A search is a folder; it "
    "can be stopped at any moment and resumed.",
)
for _command in (
    cli_run.run,
    cli_existing.resume,
    cli_existing.status,
    cli_ask.predict,
    cli_ask.evolve,
    cli_ask.report,
    cli_spaces.bench,
    cli_ask.export,
    cli_finish.finish,
    cli_spaces.space,
    cli_scale.scale,
):
    app.command()(_command)
app.command("latency-table")(cli_spaces.latency_table)
app.command()(cli_existing.rebuild)


def main() -> None:
    """Runs the command line."""
    app()
