"""`crowdfit homogenize`: a copy of an image with the PSF of another, so that apertures hold equal shares of light."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import ConfigName, Quiet, Settings
from crowdfit.errors import ConfigError
from crowdfit.job import DONE, Job


def homogenize(  # noqa: PLR0913, PLR0917 - one argument for each option
    image: Annotated[Path, typer.Argument(help="FITS image.", metavar="IMAGE")],
    psf: Annotated[
        Path,
        typer.Option(
            "--psf",
            help="Its PSF: the fit image of its fit, or any file that --psf of `fit` takes.",
            metavar="FILE",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="FITS file to write.", metavar="FILE")],
    target: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="PSF that it shall have, likewise: of the image with the widest PSF as a rule.",
            metavar="FILE",
        ),
    ] = None,
    fwhm: Annotated[
        float | None,
        typer.Option(
            "--fwhm", help="Instead of --to: a round Moffat of this FWHM, in pixels of IMAGE.", metavar="PIX"
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option("--beta", help="With --fwhm: exponent of the Moffat; default 2.5.", metavar="B"),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            help="Pixel of IMAGE over pixel of the target. Default: by the WCS of both, 1 where one has none.",
            metavar="RATIO",
        ),
    ] = None,
    max_lost: Annotated[
        float,
        typer.Option(
            "--max-lost",
            help="Pixels have no value where bad ones hold more than this share of the kernel.",
            metavar="SHARE",
        ),
    ] = 0.02,
    config: ConfigName = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> int:
    """Give an image the PSF of another one: star fluxes stay, noise gets correlated; the kernels are reported."""
    from crowdfit.io.homogenized import (  # noqa: PLC0415 - slow to import
        BETA,
        homogenize_file,
        moffat_target,
        read_target,
    )

    if beta is not None and fwhm is None:
        raise ConfigError("homogenize: --beta goes with --fwhm; the PSF of --to is what its file says")
    level = console.level_name(quiet, 0)
    with console.logging_to(level):
        if fwhm is not None and target is None:
            wanted = moffat_target(fwhm, BETA if beta is None else beta)
        elif target is not None and fwhm is None:
            wanted = read_target(target)
        else:
            raise ConfigError("homogenize: give either --to FILE or --fwhm PIX")
        chosen = Job(out.parent, level, config, settings or [], psf).config_for("")
        done = homogenize_file(image, out, chosen.psf, wanted, chosen.input, scale=scale, max_lost=max_lost)
    if not quiet:
        typer.echo(f"{done.text}\n  {done.file}")
    return DONE
