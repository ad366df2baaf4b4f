"""Colour-magnitude and colour-colour diagrams of matched bands (P065, P068)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["band_names", "draw_magnitudes", "draw_two_colours", "write_diagram"]

F64 = NDArray[np.float64]

BINS: Final = 8
"""Typical errors are drawn at so many magnitudes."""
FULL: Final = 99.8
"""Per cent of the stars that the axes hold; outliers must not decide about the scale."""


def write_diagram(table: Table, path: str | Path) -> Path:
    """Draw colour against magnitude, and for three bands colour against colour; return the file.

    Stars with several detections inside the match radius are grey. Error bars at the side are medians.

    Parameters
    ----------
    table : Table
        As `crowdfit.colours.match_bands` makes it.
    path : str or Path
        File; its suffix is the format.

    Raises
    ------
    InputError
        The file cannot be written in the format of its suffix.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    path = Path(path)
    bands = band_names(table)
    figure = Figure(figsize=(5.5 * (len(bands) - 1) + 1, 6.5), layout="constrained")
    axes = figure.subplots(1, len(bands) - 1, squeeze=False)[0]
    draw_magnitudes(axes[0], table)
    if len(bands) > 2:
        draw_two_colours(axes[1], table)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=130)
    except (OSError, ValueError) as exc:
        raise InputError(
            f"{path}: the diagram cannot be written ({exc}); give a name that ends in .png or .pdf"
        ) from exc
    return path


def draw_magnitudes(axes: "Axes", table: Table) -> None:
    """Draw colour against magnitude with median errors; `table` as for `write_diagram`."""
    one, other, *_ = band_names(table)
    mag = _values(table, "mag_1")
    _scatter(axes, _values(table, "colour_12"), mag, _is_several(table))
    _draw_errors(axes, table, mag)
    axes.invert_yaxis()
    # main sequences begin at the upper left
    axes.get_legend().set_loc("lower left")  # type: ignore[union-attr]
    axes.set(xlabel=f"{one} - {other} ({_system(table)} mag)", ylabel=f"{one} ({_system(table)} mag)")


def draw_two_colours(axes: "Axes", table: Table) -> None:
    """Draw the second colour against the first; `table` as for `write_diagram`, of three bands."""
    one, two, three = band_names(table)
    _scatter(axes, _values(table, "colour_12"), _values(table, "colour_23"), _is_several(table))
    axes.set(xlabel=f"{one} - {two} ({_system(table)} mag)", ylabel=f"{two} - {three} ({_system(table)} mag)")


def band_names(table: Table) -> list[str]:
    """Return the names of the bands of a table of colours, in their order."""
    return [str(table.meta[key]) for key in _keys(table, "band_")]


def _system(table: Table) -> str:
    return str(table.meta.get("mag_system", table.meta.get("MAG_SYSTEM", "")))


def _is_several(table: Table) -> NDArray[np.bool_]:
    return np.asarray((np.asarray(table["flags"]) & flags.bit("several")) > 0)


def _keys(table: Table, start: str) -> list[str]:
    """Return the keys of the metadata that start so, whatever a file format has made of their case."""
    return sorted(key for key in table.meta if key.lower().startswith(start))


def _values(table: Table, name: str) -> F64:
    return np.asarray(getattr(table[name], "value", table[name]), np.float64)


def _scatter(axes: "Axes", x: F64, y: F64, is_several: NDArray[np.bool_]) -> None:
    """Draw the stars and fit the axes to nearly all of them."""
    good = np.isfinite(x) & np.isfinite(y)
    size = float(np.clip(3000 / max(int(np.count_nonzero(good)), 1), 1, 12))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
    clean, mixed = good & ~is_several, good & is_several
    axes.scatter(
        x[mixed],
        y[mixed],
        color="#9a9fa6",
        label=f"several detections ({np.count_nonzero(mixed):,})",
        **style,
    )
    axes.scatter(x[clean], y[clean], color="#2f6db3", label=f"stars ({np.count_nonzero(clean):,})", **style)
    if good.any():
        axes.set_xlim(*_limits(x[good]))
        axes.set_ylim(*_limits(y[good]))
    axes.legend(
        markerscale=max(3 / size, 1), loc="upper left", frameon=True, framealpha=0.8, edgecolor="none"
    )


def _limits(values: F64) -> tuple[float, float]:
    low, high = np.percentile(values, [50 - FULL / 2, 50 + FULL / 2])
    margin = max(0.06 * (high - low), 0.05)
    return float(low - margin), float(high + margin)


def _draw_errors(axes: "Axes", table: Table, mag: F64) -> None:
    """Draw the median errors of colour and magnitude by magnitude, near the right edge."""
    colour_err, mag_err = _values(table, "colour_err_12"), _values(table, "mag_err_1")
    good = np.isfinite(mag) & np.isfinite(colour_err) & np.isfinite(mag_err)
    if np.count_nonzero(good) < BINS:
        return
    low, high = (float(np.percentile(mag[good], 50 + side * FULL / 2)) for side in (-1, 1))
    edges = np.linspace(low, high, BINS + 1)
    left, right = axes.get_xlim()
    number = np.clip(np.searchsorted(edges, mag[good], side="right") - 1, 0, BINS - 1)
    for k in np.unique(number):
        inside = number == k
        axes.errorbar(
            right - 0.08 * (right - left), np.median(mag[good][inside]),
            xerr=np.median(colour_err[good][inside]), yerr=np.median(mag_err[good][inside]),
            color="#d9822b", lw=1, capsize=0,
        )  # fmt: skip
