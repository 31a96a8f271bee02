"""What all commands share: errors as one line, exit codes that differ, output as JSON or text.

Exit codes: 0 done; 1 the work failed, or some of it; 2 wrong usage or a wrong value; 3 an optional
part is not installed; 130 interrupted. FBNETV3_DEBUG=1 shows the traceback of an error too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import typer
import typer.core

FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130


class CommandGroup(typer.core.TyperGroup):
    """Runs a command; a user's mistake ends in one line on the error output, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Returns what the command returns."""
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it needs only two
        try:
            return super().invoke(ctx)
        except ImportError as error:
            _fail(error, MISSING)
        except OSError as error:
            _fail(error, FAILED)
        except ValueError as error:
            _fail(error, USAGE)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("FBNETV3_DEBUG"):
        traceback.print_exc()
    print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
    raise typer.Exit(code) from None


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    # Ours are UserWarnings; what libraries deplore in each other is not for the user's eyes.
    if category is UserWarning:
        print(f"note: {message}", file=sys.stderr)


def note(text: str) -> None:
    """Prints a remark on the error output, so that the output itself stays clean."""
    print(f"note: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Prints records, mappings or lists of them as JSON."""
    print(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints rows under column heads; numbers go right. Wide as the terminal, or as needed."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        cells = [row[number] for row in rows]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("" if cell is None else _cell(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _cell(cell: object) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int):
        return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
    return f"{cell:,}"
