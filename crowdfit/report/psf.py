"""The PSF as pictures: core, wings and enclosed light, and maps of the stars and of the residual over the field."""

import numpy as np
from numpy.typing import NDArray

from crowdfit.frame import Frame
from crowdfit.photometry.psf_map import MIN_PIXELS, MIN_STARS, STARLIGHT, PsfMap, missing_variation
from crowdfit.psf.epsf import EPSF
from crowdfit.report import canvas, pixels, plot
from crowdfit.report.canvas import Picture
from crowdfit.report.panel import GREYS, Panel, Scale
from crowdfit.report.sheet import single

F64 = NDArray[np.float64]

DECADES = 6
"""Range of the logarithmic pictures, in powers of ten below the peak."""

FLAT = 0.03
"""The colours of the map reach at least this share of the FWHM to either side: noise shall not look like much."""

NOISY = 0.1
"""The same for the map of the residual, of which a cell of a few hundred pixels is known to 5 %."""

LONG_WHISKER = 0.1
"""Ellipticity of a whisker as long as a cell, or the largest of the map if that is more."""

LONG_SIDE, DOTS = 2.2, 600
"""Longest side of an image on the page (inches), and about how many dots that is."""

MAP = "YlGnBu"
"""Colours of the map."""

OFFSETS = ("offset in x (pix)", "offset in y (pix)")
PIXELS = ("x (pix)", "y (pix)")
"""Labels of the axes."""


def psf_pictures(frame: Frame, psf_map: PsfMap | None = None) -> list[Picture]:
    """Return core, wings and profile of the PSF at the middle of the field, and the maps if there is a `psf_map`."""
    ny, nx = frame.exposure.shape
    psf = frame.psf.at((nx - 1) / 2, (ny - 1) / 2)
    table = psf.cube[0] / psf.cube[0].max()
    pictures = [_core(psf, table), _wings(psf, table), _profile(psf, table)]
    return pictures if psf_map is None else [*pictures, _map(frame.psf, psf_map), _chi_map(psf_map)]


def shape_text(psf: EPSF) -> str:
    """Return ellipticity and, where it means something, position angle (from the x axis towards y)."""
    text = f"ellipticity {psf.ellipticity:.3f}"
    return text if psf.ellipticity < 0.01 else f"{text}, position angle {psf.position_angle % 180:.0f} deg"


def _offsets(psf: EPSF, n: int) -> F64:
    """Return the positions of `n` central samples from the centre (pix)."""
    return np.asarray((np.arange(n) - n // 2) / psf.oversample)


def _crop(table: F64, half: int) -> F64:
    centre = table.shape[0] // 2
    half = min(half, centre)
    return table[centre - half : centre + half + 1, centre - half : centre + half + 1]


def _panel(psf: EPSF, cut: F64, scale: Scale) -> Panel:
    reach = cut.shape[0] / 2 / psf.oversample
    return Panel(cut, (-reach, reach, -reach, reach), scale, LONG_SIDE, DOTS)


def _core(psf: EPSF, table: F64) -> Picture:
    cut = _crop(table, int(np.ceil(max(1.8 * psf.fwhm, 3) * psf.oversample)))
    panel = _panel(psf, cut, Scale.linear(0, 1, GREYS, 6, "value / peak"))
    panel.draw_level(cut, 0.5, 1.3)
    width = f"FWHM {psf.fwhm:.2f} pix, {shape_text(psf)}"
    caption = (
        f"The line is the contour of half maximum: {width}. "
        f"{psf.oversample} sample{'s' if psf.oversample > 1 else ''} per pixel."
    )
    sheet = single(panel, "Core, linear", *OFFSETS)
    return sheet.finish("psf-core", f"Core of the PSF: {width}.", caption)


def _wings(psf: EPSF, table: F64) -> Picture:
    factor = pixels.block_factor(table.shape)
    table = table[::factor, ::factor]
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(np.where(table > 0, table, np.nan))
    scale = Scale.linear(-DECADES, 0, GREYS, DECADES + 1, "log10 of value / peak")
    caption = (
        "The whole table. Wings should fall smoothly, without a step where the measured core meets them; "
        "samples in the colour of masked pixels are zero or negative."
    )
    sheet = single(_panel(psf, decades, scale), "Wings, logarithmic", *OFFSETS)
    return sheet.finish("psf-wings", "Logarithm of the whole PSF.", caption)


def _profile(psf: EPSF, table: F64) -> Picture:
    offsets = _offsets(psf, len(table))
    radius = np.hypot(offsets[:, None], offsets[None, :]).ravel()
    order = np.argsort(radius, kind="stable")
    radius, values = radius[order], table.ravel()[order]
    enclosed = np.cumsum(values) / values.sum()
    step = max(1, len(values) // 20_000)
    inner = radius < 4 * psf.fwhm
    keep = inner | (np.arange(len(values)) % step == 0)
    figure = canvas.new_figure(3.7, 3.17)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    upper.plot(radius[keep], values[keep], ".", color=canvas.BLUE, ms=1.2, alpha=0.35, mew=0, rasterized=True)
    upper.plot(*_ring_means(radius, values), color=canvas.INK, lw=1, label="mean of ring")
    upper.axvline(psf.fwhm / 2, color=canvas.ORANGE, lw=1, label="half of FWHM")
    upper.set(
        yscale="log", ylim=(10.0**-DECADES, 2), ylabel="value / peak", title="Profile and enclosed light"
    )
    lower.plot(radius, enclosed, color=canvas.INK, lw=1)
    lower.set(ylim=(0, 1.04), xlim=(0.0, psf.radius), xlabel="radius (pix)", ylabel="enclosed light")
    upper.legend(loc="upper right")
    half, most = (float(np.interp(share, enclosed, radius)) for share in (0.5, 0.9))
    caption = (
        f"Every sample against its distance from the centre. Half of the light falls within {half:.2f} pix "
        f"and 90 % within {most:.2f} pix; fluxes refer to the sum out to {psf.radius} pix."
    )
    return plot.finish(
        figure, "psf-profile", "Radial profile of the PSF and enclosed light by radius.", caption
    )


def _map(psf: EPSF, psf_map: PsfMap) -> Picture:
    """Return the map of the stars beside a PSF that may vary over the field."""
    low, high, error = psf_map.width_range
    if not np.isfinite(low):
        empty = _map_panel(psf_map.fwhm, psf_map.shape, Scale.linear(0, 1, MAP, 0, ""))
        sheet = single(empty, "FWHM: too few stars", *PIXELS)
        caption = (
            f"No cell of the field holds {MIN_STARS} bright uncrowded stars, so there is no map of the PSF."
        )
        return sheet.finish("psf-map", "No map of the PSF.", caption)
    middle = float(np.nanmedian(psf_map.fwhm))
    least, most = min(low, (1 - FLAT) * middle), max(high, (1 + FLAT) * middle)
    scale = Scale.linear(least, most, MAP, 5, "FWHM of the stars (pix)")
    panel = _map_panel(psf_map.fwhm, psf_map.shape, scale)
    longest = _whiskers(panel, psf_map)
    rows, columns = psf_map.fwhm.shape
    several = f" to {high:.3f} pix (difference known to {error:.3f})" if rows * columns > 1 else " pix"
    caption = (
        f"Medians of {psf_map.n_stars.sum()} bright uncrowded stars in {columns} x {rows} cells: "
        f"FWHM {low:.3f}{several}; {_beside(psf, psf_map)}. Lines point along the major axis; one as long as a cell "
        f"is an ellipticity of {longest:.2f}. Cells in the colour of masked pixels hold fewer than {MIN_STARS} stars. "
        f"{_meaning(psf, psf_map)} In dense fields unseen neighbours make all stars a few percent wider."
    )
    alt = f"Map of the FWHM of the stars over the field, {low:.2f} to {high:.2f} pixels."
    return single(panel, "FWHM over the field", *PIXELS).finish("psf-map", alt, caption)


def _beside(psf: EPSF, psf_map: PsfMap) -> str:
    """Return what width the PSF has beside that of the stars."""
    if len(psf.cube) == 1:
        return f"that of the PSF is {psf.fwhm:.3f} pix"
    least, most, _ = psf_map.ratio_range
    several = f"{least:.3f} to {most:.3f}" if psf_map.ratio.size > 1 else f"{least:.3f}"
    return f"the PSF varies too, and the stars are {several} times as wide as it is where they are"


def _meaning(psf: EPSF, psf_map: PsfMap) -> str:
    """Return what the map says about the PSF."""
    if missing_variation(psf, psf_map):
        return (
            "The pattern means that one PSF is not enough."
            if len(psf.cube) == 1
            else "The PSF does not follow the stars as far as they vary."
        )
    if len(psf.cube) == 1:
        return "Nothing here asks for more than one PSF."
    return "The PSF follows the stars; a pattern is no fault."


def _chi_map(psf_map: PsfMap) -> Picture:
    """Return the map of how well the stars are fitted."""
    chi = psf_map.chi
    if not np.isfinite(chi).any():
        empty = _map_panel(chi, psf_map.shape, Scale.linear(0, 1, MAP, 0, ""))
        sheet = single(empty, "Residual: no starlight", *PIXELS)
        caption = f"No cell of the field has {MIN_PIXELS} pixels on which stars outshine the noise."
        return sheet.finish("chi-map", "No map of the residual.", caption)
    low, high = float(np.nanmin(chi)), float(np.nanmax(chi))
    scale = Scale.linear(min(low, 1 - NOISY), max(high, 1 + NOISY), MAP, 5, "residual / noise")
    caption = (
        f"Robust rms of the residual over its noise, {low:.3f} to {high:.3f}, on pixels where the stars are brighter "
        f"than {STARLIGHT:g} sigma: 1 where the model is perfect. A pattern like that of the FWHM means that the PSF "
        "does not follow the stars; where it is above 1 only in the densest parts, stars are missing from the model. "
        f"Cells in the colour of masked pixels have fewer than {MIN_PIXELS} such pixels."
    )
    alt = f"Map of the residual over its noise on starlight, {low:.2f} to {high:.2f}."
    sheet = single(_map_panel(chi, psf_map.shape, scale), "Residual over the field", *PIXELS)
    return sheet.finish("chi-map", alt, caption)


def _map_panel(cells: F64, shape: tuple[int, int], scale: Scale) -> Panel:
    """Return a value for each cell (cy, cx) as a panel in the shape of the field (ny, nx)."""
    ny, nx = shape
    row, column = (
        np.arange(dots) * n // dots
        for dots, n in zip(
            (max(1, round(DOTS * side / max(ny, nx))) for side in (ny, nx)), cells.shape, strict=True
        )
    )
    extent = (-0.5, nx - 0.5, -0.5, ny - 0.5)
    return Panel(cells[np.ix_(row, column)], extent, scale, LONG_SIDE, DOTS)


def _whiskers(panel: Panel, psf_map: PsfMap) -> float:
    """Draw ellipticities as lines in the cells; return the ellipticity of a line as long as a cell."""
    rows, columns = psf_map.fwhm.shape
    high, wide = psf_map.shape[0] / rows, psf_map.shape[1] / columns
    row, col = np.nonzero(np.isfinite(psf_map.fwhm))
    ellipticity, angle = psf_map.ellipticity[row, col], np.radians(psf_map.position_angle[row, col])
    longest = max(LONG_WHISKER, float(ellipticity.max(initial=0)))
    half = 0.5 * min(high, wide) * ellipticity / longest
    x, y = (col + 0.5) * wide - 0.5, (row + 0.5) * high - 0.5
    dx, dy = half * np.cos(angle), half * np.sin(angle)
    panel.draw_lines(np.stack([x - dx, x + dx], axis=1), np.stack([y - dy, y + dy], axis=1), 1.3)
    return longest


def _ring_means(radius: F64, values: F64, width: float = 0.5) -> tuple[F64, F64]:
    """Return mean radius and mean value in rings of `width` pixels, NaN where the mean is not positive."""
    ring = (radius / width + 0.5).astype(int)
    count = np.maximum(np.bincount(ring), 1)
    mean = np.bincount(ring, values) / count
    return np.bincount(ring, radius) / count, np.where(mean > 0, mean, np.nan)
