"""`crowdfit config`, `columns` and `flags`: what can be set, and what the names in a catalogue mean."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit.commands.options import Settings
from crowdfit.commands.text import aligned
from crowdfit.errors import ConfigError
from crowdfit.job import DONE


def show_config(
    name: Annotated[
        str | None,
        typer.Argument(help="Name from --list, or a YAML file; the defaults when left out.", metavar="NAME"),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print every value with its meaning and origin (done anyway without --list)."
        ),
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the configurations that come with crowdfit.")
    ] = False,
    settings: Settings = None,
    band: Annotated[
        str, typer.Option("--band", help="Filter, for the `filters:` blocks of the file.", metavar="FILTER")
    ] = "",
) -> int:
    """Print a configuration as a YAML file, or list those that come with crowdfit."""
    from crowdfit import config  # noqa: PLC0415

    if listing:
        typer.echo("\n".join(aligned((key, _first_comment(path)) for key, path in config.shipped().items())))
    if show or not listing:
        typer.echo(config.describe(config.resolve(name, settings or (), band)), nl=False)
    return DONE


def _first_comment(path: Path) -> str:
    """Return the first line of a configuration file, which says what it is for."""
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.removeprefix("#").strip()


def columns(
    averaged: Annotated[
        bool, typer.Option("--average", help="The columns that `crowdfit average` writes.")
    ] = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="The columns of extended sources, with segments.kind=sep.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="The columns that a calibration adds.")
    ] = False,
    colours: Annotated[
        bool, typer.Option("--colours", help="The columns that `crowdfit cmd` writes.")
    ] = False,
    joint: Annotated[
        bool, typer.Option("--joint", help="The columns that `crowdfit fit --joint` writes.")
    ] = False,
) -> int:
    """Print every column of the catalogue with unit, type and meaning."""
    from crowdfit.calibration.columns import CALIBRATED_COLUMNS  # noqa: PLC0415
    from crowdfit.catalog import (  # noqa: PLC0415
        AVERAGE_COLUMNS,
        COLUMNS,
        SEGMENT_COLUMNS,
        columns_table,
    )
    from crowdfit.colours import COLOUR_COLUMNS  # noqa: PLC0415
    from crowdfit.joint.columns import JOINT_COLUMNS  # noqa: PLC0415

    others = {
        "--average": (averaged, AVERAGE_COLUMNS),
        "--segments": (segments, SEGMENT_COLUMNS),
        "--calibrated": (calibrated, CALIBRATED_COLUMNS),
        "--colours": (colours, COLOUR_COLUMNS),
        "--joint": (joint, JOINT_COLUMNS),
    }
    asked = [name for name, (wanted, _) in others.items() if wanted]
    if len(asked) > 1:
        raise ConfigError(f"columns: {' and '.join(asked)} are different tables; ask for one of them")
    typer.echo(columns_table(others[asked[0]][1] if asked else COLUMNS))
    return DONE


def flags(
    dq: Annotated[
        int | None,
        typer.Option(
            "--dq", min=0, max=2**32 - 1, help="Name the bits of a JWST data-quality value.", metavar="VALUE"
        ),
    ] = None,
) -> int:
    """Print every source flag with its value and meaning, or the names of JWST data-quality bits."""
    if dq is not None:
        from crowdfit.io.dq import decode_dq  # noqa: PLC0415

        typer.echo("\n".join(decode_dq(dq)) or "no bits")
        return DONE
    from crowdfit.flags import APERTURE_FLAGS, SOURCE_FLAGS  # noqa: PLC0415

    rows = [(str(flag.value), flag.name, flag.text) for flag in SOURCE_FLAGS]
    typer.echo("\n".join(aligned([("value", "name", "meaning"), *rows])))
    rows = [(str(flag.value), flag.name, flag.text) for flag in APERTURE_FLAGS]
    typer.echo("\n".join(["", "in aper_flags:", *aligned([("value", "name", "meaning"), *rows])]))
    return DONE
