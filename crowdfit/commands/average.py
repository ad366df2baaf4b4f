"""`crowdfit average`: the catalogues of several exposures as one."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import Quiet, Several
from crowdfit.job import DONE


def average(
    catalogs: Annotated[
        list[Path], typer.Argument(help="Catalogues of exposures of one field.", metavar="CATALOGUE")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write; its suffix is the format.", metavar="FILE")
    ],
    radius: Annotated[
        str | None,
        typer.Option(
            "--radius",
            help="Match radius, arcsec or for example '2 pix'. Default: 0.375 arcsec, or 1.5 pix without a WCS.",
            metavar="R",
        ),
    ] = None,
    several: Annotated[
        Several,
        typer.Option("--several", help="Several detections of one exposure: add them up, or leave them out."),
    ] = Several.sum,
    flux: Annotated[
        str, typer.Option("--flux", help="Column to average; flux_cal across detectors.", metavar="COLUMN")
    ] = "flux",
    quiet: Quiet = False,
) -> int:
    """Average the catalogues of several exposures: one row a star, with scatter and number of detections."""
    from crowdfit.match import average_files  # noqa: PLC0415

    level = console.level_name(quiet, 0)
    with console.logging_to(level):
        table = average_files(catalogs, out, radius, several.value, flux)
    if not quiet:
        n_several = sum(table["n_several"] > 0)
        typer.echo(f"{out}: {len(table):,} stars, {n_several:,} with several detections of one exposure")
    return DONE
