"""The page of matched bands: colour-magnitude and colour-colour diagrams, errors, and how good the match is."""

from pathlib import Path

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from crowdfit import __version__, flags
from crowdfit.diagrams import band_names, draw_magnitudes, draw_two_colours
from crowdfit.io.atomic import atomic_path
from crowdfit.report import canvas, plot
from crowdfit.report.canvas import Picture
from crowdfit.report.curves import column, draw_cloud, draw_trend
from crowdfit.report.facts import Fact, count, digits, percent
from crowdfit.report.page import template

__all__ = ["write_bands_report"]

F64 = NDArray[np.float64]


def write_bands_report(table: QTable, path: str | Path) -> Path:
    """Write the report of matched bands as one self-contained HTML page.

    Parameters
    ----------
    table : QTable
        As `crowdfit.colours.match_bands` makes it.
    path : str or Path
        The file to write; it is replaced in one step when the page is complete.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    path = Path(path)
    with canvas.look():
        pictures = _pictures(table)
    text = template("bands.html").render(
        name=", ".join(band_names(table)),
        masked=canvas.MASKED,
        version=__version__,
        headline=_headline(table),
        facts=_facts(table),
        diagrams=[picture for picture in pictures if picture.name in ("cmd", "two-colours")],
        figures=[picture for picture in pictures if picture.name not in ("cmd", "two-colours")],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _meta(table: QTable, key: str) -> str:
    """Return what the metadata say; files make keys upper case."""
    return str(table.meta.get(key, table.meta.get(key.upper(), "")))


def _several(table: QTable) -> int:
    return int(np.count_nonzero(flags.has(np.asarray(table["flags"]), "several")))


def _numbers(table: QTable) -> range:
    """Return the numbers of the bands beyond the first."""
    return range(2, len(band_names(table)) + 1)


def _headline(table: QTable) -> list[Fact]:
    n = _several(table)
    return [
        Fact("stars", count(len(table))),
        Fact("with several detections", f"{count(n)} ({percent(n, len(table))})" if n else "0"),
        Fact("match radius", _meta(table, "match_radius")),
        Fact("magnitudes", _meta(table, "mag_system")),
    ]


def _facts(table: QTable) -> list[Fact]:
    """Return what has to be known to judge the match."""
    names = band_names(table)
    files = _meta(table, "catalogs").splitlines()
    facts = [
        Fact(f"band {k}", f"{name}: {file}")
        for k, (name, file) in enumerate(zip(names, files, strict=False), 1)
    ]
    for k in _numbers(table):
        n = int(np.count_nonzero(np.asarray(table[f"row_{k}"]) >= 0))
        far, chance = _separation(table, k), column(table, f"chance_{k}")
        facts += [
            Fact(f"stars with {names[k - 1]}", count(n)),
            Fact(f"shift of {names[k - 1]}, taken out", _meta(table, f"shift_{k}")),
            Fact(f"distance from {names[0]}, median", f"{digits(_median(far), '.3g')} {_unit(table)}"),
            Fact("chance of an unrelated star so near, mean", digits(_mean(chance), ".2g")),
        ]
    facts.append(
        Fact(
            "several detections",
            "added up" if _meta(table, "several") == "sum" else "flagged, without a colour",
        )
    )
    for pair in ("12", "23")[: len(names) - 1]:
        shared = _median(column(table, f"colour_err_sys_{pair}"))
        facts.append(Fact(f"error of colour {pair} that all stars share", f"{digits(shared, '.3f')} mag"))
    return facts


def _unit(table: QTable) -> str:
    return "arcsec" if "sky_separation_2" in table.colnames else "pix"


def _separation(table: QTable, k: int) -> F64:
    kind = "sky" if _unit(table) == "arcsec" else "pixel"
    return column(table, f"{kind}_separation_{k}")


def _median(values: F64) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan


def _mean(values: F64) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def _pictures(table: QTable) -> list[Picture]:
    names = band_names(table)
    pictures = [_magnitudes(table, names)]
    if len(names) > 2:
        pictures.append(_two_colours(table, names))
    return [*pictures, _errors(table, names), _distances(table, names)]


def _magnitudes(table: QTable, names: list[str]) -> Picture:
    figure = canvas.new_figure(5.4, 5.6)
    axes = figure.subplots()
    draw_magnitudes(axes, table)
    axes.set_title("Colour-magnitude diagram")
    caption = (
        "Orange bars are median errors of colour and magnitude at that magnitude, without what all stars share. Grey "
        "stars have several detections inside the match radius: their colour is that of a blend, or of one part of it."
    )
    return plot.finish(figure, "cmd", f"{names[0]} against {names[0]} - {names[1]}.", caption)


def _two_colours(table: QTable, names: list[str]) -> Picture:
    figure = canvas.new_figure(5.4, 5.6)
    axes = figure.subplots()
    draw_two_colours(axes, table)
    axes.set_title("Colour-colour diagram")
    caption = (
        "Stars with all three bands. Away from their sequence lie galaxies, wrong matches, and stars with a bad flux "
        "in one band."
    )
    return plot.finish(
        figure, "two-colours", f"{names[1]} - {names[2]} against {names[0]} - {names[1]}.", caption
    )


def _errors(table: QTable, names: list[str]) -> Picture:
    figure, axes = plot.new_plot()
    mag, error = column(table, "mag_1"), column(table, "colour_err_12")
    if draw_cloud(axes, mag, error, log=True):
        draw_trend(axes, mag, error, canvas.INK, "median")
    axes.set(
        title="Error of the colour",
        xlabel=f"{names[0]} (mag)",
        ylabel=f"error of {names[0]} - {names[1]} (mag)",
    )
    caption = "Both bands in quadrature: noise, neighbours, sky and PSF, without the zero points."
    return plot.finish(figure, "colour-error", "Error of the colour against magnitude.", caption)


def _distances(table: QTable, names: list[str]) -> Picture:
    figure, axes = plot.new_plot()
    unit = _unit(table)
    far = {k: _separation(table, k) for k in _numbers(table)}
    far = {k: values[np.isfinite(values)] for k, values in far.items()}
    longest = max((float(values.max()) for values in far.values() if values.size), default=0.0)
    if longest > 0:
        edges = np.linspace(0, longest, 61)
        for (k, values), colour in zip(far.items(), plot.HUES, strict=False):
            axes.stairs(np.histogram(values, edges)[0], edges, color=colour, lw=1.2, label=names[k - 1])
        axes.set(xlim=(0, longest))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    else:
        plot.empty(axes, "no distances")
    axes.set(title="Distances of the pairs", xlabel=f"distance from {names[0]} ({unit})", ylabel="stars")
    caption = (
        "True pairs pile up at small distances. A tail that rises towards the match radius, at the right end, is made "
        "of chance pairs: take a smaller radius."
    )
    return plot.finish(figure, "distances", "Histogram of the distances between bands.", caption)
