"""What all commands share: help, errors as one line, exit codes that differ, JSON or text.

Exit codes: 0 done; 1 the work failed, or some of it; 2 wrong usage, a wrong value or a file that is
not there; 3 an optional part is not installed; 130 interrupted; 141 the output's reader went away.
FBNETV3_DEBUG=1 shows an error's traceback too.

A command's docstring is its help: what it does, what it writes, and `Examples:`, which are shown
below the options as they stand and are run by the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
import typer.core

from fbnetv3._internal.errors import FBNetV3Error
from fbnetv3._internal.files import DISK_ERRORS
from fbnetv3._internal.messages import escaped
from fbnetv3._internal.processors import heed_quota
from fbnetv3._version import __version__

from .peer_options import ARGUMENTS, own_option

FAILED, USAGE, MISSING, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141
_EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 an optional part is missing, "
    "130 interrupted. FBNETV3_DEBUG=1 shows where an error comes from."
)
# Words of other programs -> our commands; a program takes the first that it has.
_ELSEWHERE = {
    "bench": ("latency",),
    "benchmark": ("latency", "bench"),
    "continue": ("resume",),
    "dashboard": ("report",),
    "download": ("fetch",),
    "fine-tune": ("train",),
    "finetune": ("train",),
    "fit": ("train",),
    "infer": ("predict", "classify"),
    "inference": ("predict", "classify"),
    "ls": ("list",),
    "models": ("list",),
    "optimize": ("run",),
    "plot": ("report",),
    "predict": ("classify",),
    "profile": ("flops",),
    "serve": ("demo",),
    "start": ("run",),
    "summary": ("info",),
    "test": ("eval",),
    "train": ("run",),
    "tune": ("run",),
    "val": ("eval",),
    "validate": ("eval",),
}
_EXAMPLES = "Examples:"
_NEVER_CUT = 1000
_IN_A_WORKER = "Original Traceback (most recent call last)"
_WRONG_PATH = FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _PlainEnds:
    """A user's mistake ends in one line on the error output, never in a traceback."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Returns the parsed words; prints the help where that is asked for."""
        with _plain_ends():
            return super().make_context(*arguments, **settings)  # type: ignore[misc]  # a mixin

    def invoke(self, ctx: Any) -> Any:
        """Returns what the command returns."""
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it needs only two
        # One says where it keeps its fonts if there is no home directory, the other each wrong tag
        # of a file that it reads.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A console that cannot show a file's name shows its escaped form.
            sys.stdout.reconfigure(errors="backslashreplace")
        with _plain_ends():
            result = super().invoke(ctx)  # type: ignore[misc]  # a mixin
            sys.stdout.flush()
            return result


class Command(_PlainEnds, typer.core.TyperCommand):
    """A command whose help ends in the examples of its docstring, line for line."""

    def __init__(self, name: str | None, *, help: str | None = None, **settings: Any) -> None:
        about, _, examples = (help or "").partition(_EXAMPLES)
        super().__init__(name, help=about.strip(), **settings)
        self.examples = inspect.cleandoc(examples).splitlines()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Returns what is left of the words; says where one of them belongs that stands wrong."""
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        options = {name for p in self.params for name in (*p.opts, *p.secondary_opts)}
        first: Any = next((p for p in self.params if p.param_type_name == "option"), None)
        words = [word.partition("=")[0] for word in args]
        if args and not arguments and not words[0].startswith("-") and not _is_flag(first):
            raise ValueError(
                f"{args[0]} stands without an option; did you mean "
                f"`{ctx.command_path} {first.opts[0]} {args[0]}`?"
            )
        for argument in arguments:
            names = (f"--{argument.name}", *ARGUMENTS.get(str(argument.name), ()))
            if name := next((one for one in names if one in words and one not in options), None):
                raise ValueError(
                    f"{name} is no option; give the value alone: "
                    f"`{ctx.command_path} {str(argument.name).upper()}`"
                )
        for word in itertools.takewhile(lambda word: word != "--", words):
            own = own_option(word, options)
            if own is not None:
                raise ValueError(f"no option {word}; did you mean {own}? See {ctx.command_path} -h")
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples."""
        super().format_epilog(ctx, formatter)
        if not self.help:
            formatter.write("\nThe description is missing: PYTHONOPTIMIZE=2 leaves it out.\n")
        if self.examples:
            with formatter.section(_EXAMPLES.rstrip(":")):
                for line in self.examples:
                    formatter.write(f"  {line}".rstrip() + "\n")


class CommandGroup(_PlainEnds, typer.core.TyperGroup):
    """Commands that end plainly. `--help` lists them on one screen, by task; `--help-all` says all.

    Attributes:
        tasks: heading -> names of its commands.
        summary: one line that fits a terminal.
    """

    tasks: Mapping[str, Sequence[str]] = {}
    summary = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes what fits a screen of 24 lines: the commands, and where to read on."""
        path = ctx.command_path
        formatter.write(f"Usage: {path} COMMAND [OPTIONS]\n\n{self.summary}\n")
        self.format_commands(ctx, formatter)
        formatter.write(f"\nMore: {path} COMMAND --help; options: {path} --help-all\n")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command that the words name; `help` in front of them asks for its help."""
        name, *rest = args
        if name in self.commands or name not in ("help", "search", "version", *_ELSEWHERE):
            return super().resolve_command(ctx, args)
        if name == "help":
            if rest:
                return super().resolve_command(ctx, [*rest, "--help"])
            print(ctx.get_help())
            raise typer.Exit
        near = [word for word in _ELSEWHERE.get(name, ()) if word in self.commands][:1]
        if not near:
            near = [{"search": "run", "version": "--version"}.get(name, "--help")]
        program = "fbnetv3-search" if name == "search" else ctx.command_path
        raise ValueError(f"no command {name!r}; did you mean `{program} {near[0]}`?")

    def full_help(self, ctx: Any) -> str:
        """Returns the help with what the program is for, its options and its exit codes."""
        formatter = ctx.make_formatter()
        super().format_help(ctx, formatter)
        return str(formatter.getvalue()).rstrip("\n")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, the heading of a task in front of its first one."""
        heads, names = (max(map(len, x)) for x in (self.tasks, self.commands))
        formatter.write("\n")
        for task, members in self.tasks.items():
            found = [name for name in members if name in self.commands]
            for head, name in zip([task, *[""] * len(found)], found, strict=False):
                about = self.commands[name].get_short_help_str(_NEVER_CUT).rstrip(".")
                formatter.write(f"{head.ljust(heads)}  {name.ljust(names)}  {about}\n")


class Program(typer.Typer):
    """A program of commands with the same help, options and exit codes as its neighbours.

    The help is plain text: rich's table cuts the names of options where a terminal has 80 columns.

    Args:
        summary: what the program is for, one line.
        more: what else to know first.
        tasks: heading -> names of its commands, each command once.
    """

    def __init__(self, summary: str, tasks: Mapping[str, Sequence[str]], more: str = "") -> None:
        super().__init__(
            cls=type("Group", (CommandGroup,), {"tasks": tasks, "summary": summary}),
            help=f"{summary} {more}".strip(),
            epilog=_EXIT_CODES,
            no_args_is_help=True,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self.callback()(_options)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Runs the program."""
        _open_standard_streams()
        heed_quota()
        return super().__call__(*arguments, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """Returns the decorator that makes a function a command."""
        return super().command(name, cls=Command, **settings)


def _is_flag(option: Any) -> bool:
    return option is None or bool(getattr(option, "is_flag", False))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fbnetv3-zoo {__version__}")
        raise typer.Exit


def _help_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        print(cast(CommandGroup, ctx.command).full_help(ctx))
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print it and stop."
        ),
    ] = False,
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all", callback=_help_all, is_eager=True, help="Show all options and stop."
        ),
    ] = False,
) -> None:
    pass


def _open_standard_streams() -> None:
    """Opens nothing in the place of streams that the caller has closed, as `>&-` does.

    Otherwise the next file that is opened gets the number of the closed one, and with it all that
    libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open to the end


@contextlib.contextmanager
def _plain_ends() -> Iterator[None]:
    try:
        _check_current_folder()
        yield
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit(CLOSED_PIPE) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        if os.environ.get("FBNETV3_DEBUG"):
            traceback.print_exc()
        print(f"error: {_line_of(error)}", file=sys.stderr)
        if _output_failed(error):
            _drop_output()
        raise typer.Exit(code) from None


def _check_current_folder() -> None:
    """Raises FileNotFoundError if the folder was deleted: torch would end the process."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "the current folder does not exist any more; cd to one that does"
        ) from error


def _drop_output() -> None:
    """Keeps what is left in the output's buffer from raising again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _output_failed(error: Exception) -> bool:
    return isinstance(error, OSError) and not error.filename and error.errno in DISK_ERRORS


def _code_of(error: Exception) -> int | None:
    """Returns the exit code of what a user can do something about, None for our own bugs."""
    if isinstance(error, FBNetV3Error):
        return FAILED
    if isinstance(error, ImportError):
        return MISSING
    if isinstance(error, ValueError | _WRONG_PATH):
        return USAGE
    if _missing(error) or _wrong_choice(error):
        return USAGE
    out_of_memory = isinstance(error, RuntimeError) and "memory" in str(error)
    return FAILED if isinstance(error, OSError | MemoryError) or out_of_memory else None


def _line_of(error: Exception) -> str:
    """Returns what an error says, on one line."""
    text = _missing(error) or _wrong_choice(error) or str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"cannot use {error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and _output_failed(error):
        text = f"cannot write the output: {error.strerror}"
    elif isinstance(error, ModuleNotFoundError) and "pip install" not in text:
        text += '; pip install --upgrade "fbnetv3-zoo", then see `fbnetv3 doctor`'
    elif _IN_A_WORKER in text:
        # A process that decodes images failed: torch puts its whole traceback into the message.
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return escaped(" ".join(text.split())) or type(error).__name__


def _missing(error: Exception) -> str:
    """Returns the message for an option or argument that must be given; "" for other errors."""
    if not isinstance(error, typer.BadParameter) or error.param is None or error.message:
        return ""
    parameter: Any = error.param
    is_option = parameter.param_type_name == "option"
    name = parameter.opts[0] if is_option else str(parameter.name).upper()
    where = f"; see `{error.ctx.command_path} -h`" if error.ctx is not None else ""
    return f"{name} is missing: {str(parameter.help).rstrip('.')}{where}"


def _wrong_choice(error: Exception) -> str:
    """Returns the message for a value that is none of an option's choices; "" for other errors."""
    if not isinstance(error, typer.BadParameter) or error.param is None:
        return ""
    choices: Sequence[str] = getattr(error.param.type, "choices", ())
    value, wrong, _ = error.message.partition(" is not one of ")
    if not (choices and wrong):
        return ""
    return f"{error.param.opts[0]} is {value}; expected one of {', '.join(choices)}"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    # Ours are UserWarnings; what libraries deplore in each other is not for the user's eyes.
    if category is UserWarning:
        note(str(message))


def note(text: str) -> None:
    """Prints a remark on the error output, so that the output itself stays clean."""
    print(f"note: {escaped(text)}", file=sys.stderr)


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
    """Prints rows under column heads; numbers go right.

    Columns that no row has a value for are left out. Nothing is cut: where a terminal is too narrow
    it breaks the lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    used = [n for n in range(len(columns)) if not rows or any(row[n] is not None for row in rows)]
    for number in used:
        cells = [row[number] for row in rows]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(columns[number], justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("" if row[n] is None else _cell(row[n]) for n in used))
    # A table takes no more than it needs; with less than that rich cuts its heads too.
    # Names of files are shown as they are: no markup, no emoji codes.
    console = Console(width=1000, markup=False, emoji=False)
    # Printed by us, since rich ends the program by itself where nobody reads.
    with console.capture() as printed:
        console.print(table)
    # Without the blanks behind them, which a narrow terminal would break into empty lines.
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _cell(cell: object) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int):
        return f"{cell:.2f}" if isinstance(cell, float) else escaped(str(cell))
    return f"{cell:,}"
