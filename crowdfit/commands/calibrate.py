"""The command `crowdfit calibrate`: its arguments; the work is in `crowdfit.calibration.command`."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import Quiet
from crowdfit.errors import ConfigError
from crowdfit.job import DONE

__all__ = ["calibrate"]


def calibrate(  # noqa: PLR0913, PLR0917 - one argument for each option
    catalog: Annotated[Path, typer.Argument(help="Catalogue of a fit.", metavar="CATALOGUE")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write; its suffix is the format.", metavar="FILE")
    ],
    config: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--config",
            help="Configuration, of which the block `calibration` is used.",
            metavar="NAME|FILE",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one setting of the calibration, for example --set calibration.system=Vega; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Fit the zero point against this catalogue: ra, dec (deg) and magnitudes.",
            metavar="FILE",
        ),
    ] = None,
    reference_mag: Annotated[
        str | None, typer.Option("--reference-mag", help="Its column of magnitudes.", metavar="COLUMN")
    ] = None,
    radius: Annotated[
        str | None, typer.Option("--radius", help="Match radius in arcsec; default 0.2.", metavar="R")
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr", min=0, help="Least S/N of the stars that are compared; default 20.", metavar="S/N"
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot of the comparison; default: beside the result.", metavar="FILE"),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Calibrate a catalogue: magnitudes in AB, Vega or ST, flux densities, and the full error budget."""
    from crowdfit.calibration.command import ReferenceOptions, calibrate_file  # noqa: PLC0415 - slow to import

    given = {"mag": reference_mag, "radius": radius, "min_snr": min_snr, "plot": plot}
    chosen = {name: value for name, value in given.items() if value is not None}
    if reference is None and chosen:
        names = " and ".join(
            {"mag": "--reference-mag"}.get(name, f"--{name.replace('_', '-')}") for name in chosen
        )
        raise ConfigError(f"calibrate: {names} need --reference FILE")
    compared = None if reference is None else ReferenceOptions(reference, **chosen)  # type: ignore[arg-type]
    with console.logging_to(console.level_name(quiet, 0)):
        said = calibrate_file(catalog, out, config, settings or [], compared)
    if not quiet:
        typer.echo(said)
    return DONE
