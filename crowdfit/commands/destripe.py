"""`crowdfit destripe`: copies of images without the stripes of the readout."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import ConfigName, Quiet
from crowdfit.errors import InputError
from crowdfit.job import DONE, Job


def destripe(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="FITS images, each corrected on its own.", metavar="IMAGE", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results; made if missing.", metavar="FOLDER")
    ] = Path("destriped"),
    config: ConfigName = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one setting, for example --set lines.amplifiers=4 or --set mask.nsigma=3; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write the sources that were masked, and the masked image.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List the settings with their values.")] = False,
    quiet: Quiet = False,
) -> int:
    """Take the stripes of the readout (1/f noise) out of images; in crowded fields use stripes.kind=lines of `fit`."""
    from crowdfit.config_layers import describe, resolve  # noqa: PLC0415
    from crowdfit.detectors.destripe import Destripe  # noqa: PLC0415
    from crowdfit.job import destripe_all  # noqa: PLC0415

    resolved = resolve(Destripe, {}, None, settings or [])
    if show:
        typer.echo(describe(resolved), nl=False)
        return DONE
    if not images:
        raise InputError("destripe: which images? Name them, or --list")
    level = console.level_name(quiet, 0)
    with console.logging_to(level):
        return destripe_all(images, Job(out, level, config), resolved.config, masks=masks)
