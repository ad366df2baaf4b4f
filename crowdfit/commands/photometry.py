"""`crowdfit photometry`: an existing list of stars is measured on an image.

The list is fitted as it is, which is forced photometry, and apertures are measured on the image cleaned of it.
"""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import (
    ConfigName,
    DqFile,
    ErrFile,
    Format,
    Formats,
    Quiet,
    Settings,
    Threads,
    Verbose,
    format_settings,
)
from crowdfit.job import Job, prepare

FORCED = "forced"
"""The configuration of a list that is neither added to nor moved."""
HELD = ("detect.kind=none", "centroid.kind=none", "prune.kind=none")
"""What that configuration says, over one that is given."""
MEASURED = "aperture.kind=cleaned"


def photometry(  # noqa: PLR0913, PLR0917 - one argument for each option
    catalog: Annotated[
        Path,
        typer.Argument(
            help="Table of stars: x, y (from 0) or ra, dec, and perhaps flux; a catalogue of crowdfit, for example.",
            metavar="CATALOG",
        ),
    ],
    image: Annotated[Path, typer.Argument(help="FITS image.", metavar="IMAGE")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results; made if missing.", metavar="FOLDER")
    ],
    config: ConfigName = None,
    settings: Settings = None,
    psf: Annotated[
        Path | None,
        typer.Option(
            "--psf",
            help="Start from the PSF in this file, for example the fit image of another exposure. It is refined unless "
            "--set psf_update.kind=none.",
            metavar="FILE",
        ),
    ] = None,
    err: ErrFile = None,
    dq: DqFile = None,
    formats: Formats = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    threads: Threads = None,
) -> int:
    """Measure an existing list of stars: fluxes at its positions, and apertures on the cleaned image.

    The catalogue has one row for each row of the list, in its order; nothing is searched, moved or dropped.
    """
    level = console.level_name(quiet, verbose)
    with console.logging_to(level):
        changes = list_settings(config, settings or [], formats or [])
        job = Job(out, level, config or FORCED, changes, psf, catalog, err, dq)
        prepare([image], out, job.config_for("").output.formats, threads)
        return job.run_all([image])


def list_settings(config: str | None, settings: list[str], formats: list[Format]) -> list[str]:
    """Return the settings that make a configuration measure a list; those of the user come last and win."""
    held = [] if config is None else list(HELD)
    files = format_settings(formats)
    return [*held, MEASURED, "output.report=false", "output.run_record=false", *files, *settings]
