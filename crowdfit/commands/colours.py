"""The commands `crowdfit cmd`, `crowdfit align` and `crowdfit regions`: arguments become library calls."""

from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import Quiet, Several
from crowdfit.errors import ConfigError, InputError
from crowdfit.job import DONE

__all__ = ["align", "cmd", "regions"]


def cmd(  # noqa: PLR0913, PLR0917 - one argument for each option
    catalogs: Annotated[
        list[Path],
        typer.Argument(
            help="Catalogues of two or three bands, the bluest first as a rule: colours are first - second and "
            "second - third, the magnitude is that of the first.",
            metavar="CATALOGUE",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Table to write; its suffix is the format.", metavar="FILE")
    ],
    radius: Annotated[
        str | None,
        typer.Option(
            "--radius",
            help="Match radius, arcsec or for example '1 pix'. Default: half of the distance between neighbours, at "
            "most 0.375 arcsec, or 1.5 pix without a WCS.",
            metavar="R",
        ),
    ] = None,
    several: Annotated[
        Several,
        typer.Option(
            "--several", help="Further detections inside the radius: add them up, or give the star no colour."
        ),
    ] = Several.sum,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Diagram; default: beside the table, as .png.", metavar="FILE"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Page with diagrams and figures of the match; default: as .html.", metavar="FILE"
        ),
    ] = None,
    eazy: Annotated[
        Path | None, typer.Option("--eazy", help="Also write fluxes for EAZY.", metavar="FILE")
    ] = None,
    eazy_filters: Annotated[
        str | None,
        typer.Option(
            "--eazy-filters",
            help="With --eazy: number of each band in EAZY's filter file, such as 3,4.",
            metavar="N,N",
        ),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Match the catalogues of two or three bands: table of colours, colour-magnitude diagram, and a report."""
    from crowdfit.colours import match_bands, write_eazy  # noqa: PLC0415 - slow to import
    from crowdfit.diagrams import write_diagram  # noqa: PLC0415
    from crowdfit.io.formats import check_formats  # noqa: PLC0415
    from crowdfit.io.tables import read_catalog, write_catalog  # noqa: PLC0415
    from crowdfit.report.bands import write_bands_report  # noqa: PLC0415

    if (eazy is None) != (eazy_filters is None):
        raise ConfigError("cmd: --eazy FILE and --eazy-filters N,N need each other")
    numbers = _numbers(eazy_filters) if eazy_filters is not None else ()
    check_formats((out.suffix.lstrip("."),))
    diagram, page = plot or out.with_suffix(".png"), report or out.with_suffix(".html")
    _check_files(catalogs, [out, diagram, page, *([eazy] if eazy else [])])
    with console.logging_to(console.level_name(quiet, 0)):
        table = match_bands({str(path): read_catalog(path) for path in catalogs}, radius, several.value)
        if eazy is not None:
            write_eazy(table, eazy, numbers)
        write_catalog(table, out)
        write_diagram(table, diagram)
        write_bands_report(table, page)
    if not quiet:
        n_several = sum(
            any(row) for row in zip(*(table[f"n_{k + 1}"] > 1 for k in range(len(catalogs))), strict=True)
        )
        typer.echo(
            f"{out}: {len(table):,} stars in {table.meta['band_1']} and {table.meta['band_2']} within "
            f"{table.meta['match_radius']}, {n_several:,} with several detections; {table.meta['mag_system']} "
            f"magnitudes\n{diagram}: diagram\n{page}: report"
        )
    return DONE


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise ConfigError(f"cmd: --eazy-filters {text} is refused; give whole numbers, such as 3,4") from exc


def _check_files(catalogs: list[Path], results: list[Path]) -> None:
    """Refuse a catalogue that is given twice, and results that would replace a catalogue or each other."""
    seen: set[Path] = set()
    for path in catalogs:
        if path.resolve() in seen:
            raise InputError(f"{path}: given twice; name each catalogue once")
        seen.add(path.resolve())
    for path in results:
        if path.resolve() in seen:
            raise InputError(f"{path}: is one of the other files; choose another name for the result")
        seen.add(path.resolve())


def align(  # noqa: PLR0913, PLR0917 - one argument for each option
    catalog: Annotated[Path, typer.Argument(help="Catalogue of a fit, with ra, dec.", metavar="CATALOGUE")],
    reference: Annotated[
        Path,
        typer.Argument(
            help="Reference stars: ra, dec (deg), perhaps pmra, pmdec, parallax, ref_epoch as of Gaia.",
            metavar="REFERENCE",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Catalogue to write; its suffix is the format.", metavar="FILE"),
    ],
    epoch: Annotated[
        float | None,
        typer.Option(
            "--epoch", help="Epoch of the image in years; default: as its header tells.", metavar="YEAR"
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option("--radius", help="Match radius once the shift is known (arcsec).", metavar="R")
    ] = 0.1,
    search: Annotated[float, typer.Option("--search", help="Largest shift (arcsec).", metavar="R")] = 1.0,
    quiet: Quiet = False,
) -> int:
    """Check the positions of a catalogue against reference stars, and refine them: shift, scale, rotation."""
    from astropy.time import Time  # noqa: PLC0415 - slow to import

    from crowdfit.astrometry import align as align_catalog  # noqa: PLC0415
    from crowdfit.calibration.references import read_table  # noqa: PLC0415
    from crowdfit.io.tables import read_catalog, write_catalog  # noqa: PLC0415

    _check_files([catalog, reference], [out])
    when = None if epoch is None else Time(epoch, format="jyear")
    with console.logging_to(console.level_name(quiet, 0)):
        table, found = align_catalog(read_catalog(catalog), read_table(reference), when, radius, search)
        write_catalog(table, out)
    if not quiet:
        typer.echo(f"{out}: {found.text}")
    return DONE


def regions(
    catalog: Annotated[Path, typer.Argument(help="Catalogue of crowdfit.", metavar="CATALOGUE")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Region file to write.", metavar="FILE.reg")],
    radius: Annotated[
        float | None,
        typer.Option(
            "--radius",
            help="Radius of the circles: arcsec, or pix without a WCS. Default 0.1 arcsec, 2 pix.",
            metavar="R",
        ),
    ] = None,
    colour: Annotated[str, typer.Option("--colour", help="One that DS9 knows.", metavar="NAME")] = "green",
    quiet: Quiet = False,
) -> int:
    """Write a catalogue as regions for DS9: a circle for every star."""
    from crowdfit.io.regions import write_regions  # noqa: PLC0415 - slow to import
    from crowdfit.io.tables import read_catalog  # noqa: PLC0415

    _check_files([catalog], [out])
    table = read_catalog(catalog)
    write_regions(table, out, radius, colour)
    if not quiet:
        typer.echo(f"{out}: {len(table):,} circles")
    return DONE
