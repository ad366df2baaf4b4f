"""What a person sees while the program works: log lines, the table of passes, and a log for machines.

The levels are quiet (errors), normal (warnings, and the table when standard error is a terminal), verbose
(one line a pass) and debug (every stage), P012. All of it goes to standard error; results go to standard
output.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowdfit.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from crowdfit.loop import State

LEVELS = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.INFO, "debug": logging.DEBUG}

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({})))


def level_name(quiet: bool, verbose: int) -> str:
    """Return the level that `-q` and the number of `-v` ask for."""
    return "quiet" if quiet else ("normal", "verbose", "debug")[min(verbose, 2)]


@contextmanager
def logging_to(level: str, json_file: Path | None = None) -> Iterator[None]:
    """Send the log of crowdfit, and warnings of other packages, to standard error and to a file.

    Parameters
    ----------
    level : str
        Key of `LEVELS`, for standard error.
    json_file : path, optional
        Gets one JSON object per line, from debug upwards whatever `level` is; replaced when it is there.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    screen = _Screen()
    screen.setLevel(LEVELS[level])
    screen.setFormatter(_Line())
    handlers: list[logging.Handler] = [screen]
    if json_file is not None:
        handlers.append(_json_handler(json_file))
    loggers = [logging.getLogger("crowdfit"), logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.setLevel(logging.DEBUG if json_file else LEVELS[level])
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


def _json_handler(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--log-json {path}: cannot be written ({error.strerror}); choose another file"
        ) from error
    handler.setFormatter(_JsonLine())
    return handler


class _Screen(logging.Handler):
    """Writes to what standard error is at the time: the live table puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


class _Line(logging.Formatter):
    """`level: message`, on one line also for Python's own warnings."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"crowdfit: {level}{_message(record)}"


class _JsonLine(logging.Formatter):
    """One JSON object with time, CPU time of the process (s), level, logger, message and the record's `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "cpu_s": round(time.process_time(), 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        extra.pop("message", None)
        return json.dumps(fields | extra, default=str)


def _message(record: logging.LogRecord) -> str:
    """Return the message on one line; of a Python warning only what it says, not where."""
    text = record.getMessage()
    if record.name == "py.warnings":
        text = text.partition(": ")[2].splitlines()[0]
    return " ".join(text.split())


def say(text: str) -> None:
    """Write a line for the person at the terminal to standard error."""
    sys.stderr.write(f"crowdfit: {text}\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


Progress = Callable[["State"], None]


@contextmanager
def live_passes(title: str) -> Iterator[Progress]:
    """Show a table on standard error that gets a row with every pass (P015).

    Parameters
    ----------
    title : str
        Name of the image.

    Yields
    ------
    callable
        To be called with the state after each pass.
    """
    from rich.console import Console, Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.spinner import Spinner  # noqa: PLC0415

    table = pass_table(title)
    working = Spinner("dots", text="starting: noise, sky and first PSF")
    with Live(Group(table, working), console=Console(stderr=True), refresh_per_second=8) as live:

        def show(state: "State") -> None:
            add_pass(table, state)
            working.update(text=f"pass {state.pass_no + 1}")
            live.refresh()

        yield show
        live.update(table)


def progress(level: str, title: str) -> Any:
    """Return a context with the live table, or with None where it would be noise (not a terminal, -q, -v)."""
    return live_passes(title) if level == "normal" and sys.stderr.isatty() else nullcontext(None)


def pass_table(title: str) -> "Table":
    """Return the table of passes without rows."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("pass", "sources", "new", "removed", "chi", "FWHM", "seconds"):
        table.add_column(name, justify="right")
    return table


def add_pass(table: "Table", state: "State") -> None:
    """Add the row of a finished pass."""
    stats = state.stats
    table.add_row(
        str(stats.pass_no),
        f"{stats.n_sources:,}",
        f"{stats.n_new:,}",
        f"{sum(stats.n_removed.values()):,}",
        f"{stats.chi:.3f}",
        f"{stats.fwhm:.2f}",
        f"{stats.seconds:.1f}",
    )
