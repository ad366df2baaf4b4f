"""Plots of numbers: the passes, the catalogue by magnitude, and the distribution of the residual."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crowdfit.report import canvas, pixels, plot
from crowdfit.report.canvas import Picture
from crowdfit.report.pixels import Planes

if TYPE_CHECKING:
    from astropy.table import QTable

    from crowdfit.loop import PassStats

F64 = NDArray[np.float64]

DENSE = 8000
"""From this many points on, density takes the place of single points."""

_HALO = [patheffects.withStroke(linewidth=3, foreground="white", alpha=0.8)]


def column(table: "QTable", name: str) -> F64:
    """Return a column as plain float64, masked entries NaN."""
    values = table[name]
    plain = np.ma.filled(np.ma.asarray(getattr(values, "value", values), np.float64), np.nan)
    return np.asarray(plain, np.float64)


def pass_pictures(history: "Sequence[PassStats]") -> list[Picture]:
    """Return sources, residual, seconds and memory by pass."""
    return [_sources(history), _chi(history), _seconds(history), _memory(history)] if history else []


def _by_pass(axes: Axes) -> None:
    axes.set_xlabel("pass")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)


def _line(
    axes: Axes, history: "Sequence[PassStats]", values: Sequence[float], label: str | None = None
) -> None:
    axes.plot([stats.pass_no for stats in history], values, "o-", color=canvas.INK, ms=3, lw=1.2, label=label)


def _sources(history: "Sequence[PassStats]") -> Picture:
    figure, axes = plot.new_plot()
    passes = [stats.pass_no for stats in history]
    removed = [-sum(stats.n_removed.values()) for stats in history]
    axes.bar(passes, [stats.n_new for stats in history], color=canvas.BLUE, width=0.7, label="new")
    axes.bar(passes, removed, color=canvas.ORANGE, width=0.7, label="removed")
    _line(axes, history, [stats.n_sources for stats in history], "in the list")
    axes.set(title="Sources", ylabel="number of sources")
    _by_pass(axes)
    axes.set_ylim(bottom=1.1 * min(removed) if min(removed) else 0)
    axes.legend()
    caption = (
        "The list should level off: few new sources in the last passes, and no pass that removes what the "
        "one before found."
    )
    return plot.finish(figure, "passes-sources", "Sources in the list, new and removed, by pass.", caption)


def _chi(history: "Sequence[PassStats]") -> Picture:
    figure, axes = plot.new_plot()
    axes.axhline(1, color=canvas.ORANGE, lw=1, label="pure noise")
    _line(axes, history, [stats.chi for stats in history])
    axes.set(title="Residual", ylabel="robust rms of residual / error")
    _by_pass(axes)
    axes.legend()
    caption = (
        "Falls towards 1 when the noise is known; a floor above 1 means faint unresolved stars or errors "
        "that are too small, one below 1 errors that are too large."
    )
    return plot.finish(figure, "passes-chi", "Robust rms of the residual in sigma, by pass.", caption)


def _seconds(history: "Sequence[PassStats]") -> Picture:
    figure, axes = plot.new_plot()
    passes = np.array([stats.pass_no for stats in history])
    names = stage_order([stats.stage_seconds for stats in history])
    shown, rest = names[: len(plot.HUES) - 1], names[len(plot.HUES) - 1 :]
    layers = [(name, [s.stage_seconds.get(name, 0.0) for s in history]) for name in shown]
    if rest:
        layers.append(("others", [sum(s.stage_seconds.get(name, 0.0) for name in rest) for s in history]))
    bottom = np.zeros(len(passes))
    for (name, seconds), colour in zip(layers, plot.HUES, strict=False):
        axes.bar(passes, seconds, bottom=bottom, width=0.7, color=colour, label=name)
        bottom = bottom + np.asarray(seconds)
    axes.set(title="Seconds", ylabel="time (s)")
    _by_pass(axes)
    axes.set_ylim(top=max(1.35 * float(bottom.max()), 1e-3))
    axes.legend(ncols=4, loc="upper left", columnspacing=1, handlelength=1)
    return plot.finish(
        figure, "passes-seconds", "Seconds by pass and stage.", "Where the time went, pass by pass."
    )


def stage_order(seconds: "Sequence[dict[str, float]]") -> list[str]:
    """Return the names of all stages, the one that took longest first."""
    total: dict[str, float] = {}
    for stages in seconds:
        for name, value in stages.items():
            total[name] = total.get(name, 0.0) + value
    return sorted(total, key=lambda name: -total[name])


def _memory(history: "Sequence[PassStats]") -> Picture:
    figure, axes = plot.new_plot()
    _line(axes, history, [stats.memory_mb for stats in history])
    axes.set(title="Memory", ylabel="peak memory so far (MB)")
    _by_pass(axes)
    axes.set_ylim(top=1.15 * max(1.0, *(s.memory_mb for s in history)))
    return plot.finish(
        figure,
        "passes-memory",
        "Peak memory by pass.",
        "Peak resident memory of the process after each pass.",
    )


def catalogue_pictures(table: "QTable", planes: Planes) -> list[Picture]:
    """Return error, fracflux and rchi2 against magnitude, and the distribution of the residual."""
    return [_errors(table), _fracflux(table), _rchi2(table), residual_histogram(planes)]


def magnitude(table: "QTable") -> F64:
    """Return the magnitudes of the catalogue, NaN where the flux is not positive."""
    return column(table, "mag_cal" if "mag_cal" in table.colnames else "mag")


def _errors(table: "QTable") -> Picture:
    figure, axes = plot.new_plot()
    mag, flux = magnitude(table), column(table, "flux")
    with np.errstate(divide="ignore", invalid="ignore"):
        total, alone = (1.0857 * column(table, name) / flux for name in ("flux_err", "flux_err_isolated"))
    if draw_cloud(axes, mag, total, log=True):
        draw_trend(axes, mag, total, canvas.INK, "marginal: neighbours are free too")
        draw_trend(axes, mag, alone, canvas.ORANGE, "as if the star were alone", few=True)
        _legend(axes, "upper left")
    axes.set(title="Magnitude error", ylabel="error (mag)", xlabel="magnitude")
    caption = (
        "Points and the line through them: the error with all its parts; orange: the noise of a star without "
        "neighbours. The gap between the lines is the price of crowding."
    )
    return plot.finish(figure, "mag-error", "Magnitude error against magnitude.", caption)


def _fracflux(table: "QTable") -> Picture:
    figure, axes = plot.new_plot()
    mag, share = magnitude(table), column(table, "fracflux")
    if draw_cloud(axes, mag, share, limits=(-0.05, 1.05)):
        draw_trend(axes, mag, share, canvas.INK, "median")
        _legend(axes, "lower left")
    axes.set(title="Own share of the light (fracflux)", ylabel="fracflux", xlabel="magnitude")
    caption = (
        "1 is an isolated star; where most of the light is the neighbours', near 0, fluxes lean on the model "
        "of those neighbours."
    )
    return plot.finish(
        figure, "fracflux", "Share of the light that is the star's own, against magnitude.", caption
    )


def _rchi2(table: "QTable") -> Picture:
    figure, axes = plot.new_plot()
    mag, chi2 = magnitude(table), column(table, "rchi2")
    if draw_cloud(axes, mag, chi2, log=True):
        axes.axhline(1, color=canvas.ORANGE, lw=1, label="pure noise")
        draw_trend(axes, mag, chi2, canvas.INK, "median")
        axes.legend(loc="upper right")
    axes.set(title="Quality of fit (rchi2)", ylabel="rchi2", xlabel="magnitude")
    caption = (
        "PSF-weighted chi-squared under each star. A rise at the bright end is the error of the PSF model; "
        "single high points are galaxies, blends or defects."
    )
    return plot.finish(figure, "rchi2", "PSF-weighted chi-squared against magnitude.", caption)


def _legend(axes: Axes, place: Literal["upper left", "lower left"]) -> None:
    """Add a legend if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place)


def draw_cloud(
    axes: Axes, x: F64, y: F64, *, log: bool = False, limits: tuple[float, float] | None = None
) -> bool:
    """Draw points, or their density when there are many; say so when there are none."""
    good = np.isfinite(x) & np.isfinite(y) & ((y > 0) if log else True)
    if not good.any():
        plot.empty(axes, "no source with finite values")
        return False
    x, y = x[good], y[good]
    low, high = limits or _span(y, log=log)
    left, right = _span(x, log=False, pad=0.05)
    if log:
        axes.set_yscale("log")
    axes.set(xlim=(left, right), ylim=(low, high))
    if len(x) < DENSE:
        axes.plot(
            x,
            y,
            ".",
            color=canvas.BLUE,
            ms=3.5 if len(x) < 1500 else 2.5,
            mew=0,
            alpha=0.8 if len(x) < 300 else 0.45,
            rasterized=True,
        )
        return True
    extent = (left, right, np.log10(low), np.log10(high)) if log else (left, right, low, high)
    axes.hexbin(
        x, y, gridsize=(90, 50), bins="log", mincnt=1, extent=extent, yscale="log" if log else "linear",
        cmap=plot.DENSITY, linewidths=0.1, rasterized=True,
    )  # fmt: skip
    return True


def _span(values: F64, *, log: bool, pad: float = 0.1) -> tuple[float, float]:
    """Return limits that hold all but the outermost thousandth of the values."""
    low, high = (float(v) for v in np.percentile(np.log10(values) if log else values, (0.1, 99.9)))
    margin = max(pad * (high - low), 0.1)
    low, high = low - margin, high + margin
    return (10**low, 10**high) if log else (low, high)


def draw_trend(axes: Axes, x: F64, y: F64, colour: str, label: str, *, few: bool = False) -> None:
    """Draw the running median of `y` in bins of equal number; with `few`, the points where they are few."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    n_bins = min(40, len(x) // 40)
    if n_bins < 2:
        if few:
            axes.plot(x, y, ".", color=colour, ms=4, mew=0, label=label)
        return
    parts = np.array_split(np.argsort(x, kind="stable"), n_bins)
    axes.plot(
        [np.median(x[p]) for p in parts],
        [np.median(y[p]) for p in parts],
        color=colour,
        lw=1.5,
        label=label,
        path_effects=_HALO,
    )


def residual_histogram(planes: Planes) -> Picture:
    """Return the distribution of residual / error beside the unit Gaussian."""
    figure, axes = plot.new_plot()
    good = pixels.thin(planes.good)
    chi = (pixels.thin(planes.resid) * np.sqrt(pixels.thin(planes.ivar)))[good]
    edges = np.linspace(-8, 8, 81)
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.histogram(np.clip(chi, -8, 8), edges)[0] / max(chi.size, 1) / (edges[1] - edges[0])
    axes.plot(
        middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color=canvas.ORANGE, lw=1.2, label="pure noise"
    )
    axes.stairs(density, edges, color=canvas.INK, lw=1.2, label="usable pixels")
    axes.set(yscale="log", ylim=(1e-6, 1), xlim=(-8, 8), xlabel="residual / error", ylabel="share per sigma")
    axes.set_title("Distribution of the residual")
    axes.legend(loc="upper left")
    centre, rms, outside = chi_summary(chi)
    share = "less than 0.01 %" if outside < 1e-4 else f"{100 * outside:.2g} %"
    caption = (
        f"Median {canvas.number(round(centre, 2) + 0.0)}, robust rms {rms:.2f}, {share} of the pixels beyond "
        "5 sigma; the last bins hold everything beyond 8. A tail to the right is light without a source, one "
        "to the left is light taken twice."
    )
    return plot.finish(
        figure, "residual-histogram", "Histogram of residual over error with a unit Gaussian.", caption
    )


def chi_summary(chi: NDArray[np.floating[Any]]) -> tuple[float, float, float]:
    """Return median, robust rms (from the quartiles) and the share beyond 5 sigma of `chi`."""
    if chi.size == 0:
        return np.nan, np.nan, np.nan
    low, middle, high = np.percentile(chi, (25, 50, 75))
    return float(middle), float((high - low) / 1.349), float(np.mean(np.abs(chi) > 5))
