"""Options that several commands share."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Catalogue formats."""

    fits = "fits"
    ecsv = "ecsv"
    csv = "csv"
    vot = "vot"
    parquet = "parquet"


class Several(StrEnum):
    """What is done with several detections inside the match radius: added up, or flagged and left out."""

    sum = "sum"
    flag = "flag"


def format_settings(formats: Sequence[Format]) -> list[str]:
    """Return what the option about formats means as settings."""
    return [f"output.formats=[{', '.join(formats)}]"] if formats else []


ConfigName = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--config",
        help="Configuration: a name from `crowdfit config --list`, or a YAML file.",
        metavar="NAME|FILE",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one setting, for example --set stop.max_passes=20; may be repeated. "
        "`crowdfit config --show` lists them.",
        metavar="KEY=VALUE",
    ),
]
ErrFile = Annotated[
    Path | None,
    typer.Option(
        "--err",
        help="Errors in a file of their own; for weights also --set input.err_kind=ivar.",
        metavar="FILE",
    ),
]
DqFile = Annotated[
    Path | None,
    typer.Option("--dq", help="Data quality in a file of its own; not 0 is bad.", metavar="FILE"),
]
Formats = Annotated[
    list[Format] | None,
    typer.Option(
        "--format", help=f"Format of the catalogue: {', '.join(Format)}; may be repeated.", metavar="FORMAT"
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, show_default=False, help="One line a pass; -vv: every stage."
    ),
]
LogJson = Annotated[
    Path | None,
    typer.Option("--log-json", help="Write the full log to a file of JSON lines.", metavar="FILE"),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads; the result does not depend on it.", metavar="N"),
]
