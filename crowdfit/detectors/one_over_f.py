"""Stripes: the slow drift of readout electronics, which shifts whole lines of pixels up or down.

A detector is read line by line and a little later each time, so noise with the spectrum 1/f becomes a step from one
line to the next: NIRCam's rows, other detectors' columns. Amplifiers that read side by side drift together and each
by itself.

The offset of a line is the clipped mean of its pixels without stars. How far offsets can be believed follows from
all lines together: their scatter beyond the pixel noise is the variance of the drift, and the correlation of a line
with its neighbours tells what to expect of it before it is looked at. Where there are no stripes nothing is
subtracted, and a line with few usable pixels follows its neighbours (empirical Bayes; Efron & Morris 1973, JASA 68,
117).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crowdfit.exposure import Image, Mask
from crowdfit.robust import MAD

__all__ = ["Stripes", "amplifier_edges", "find_stripes", "smooth_part"]

F64 = NDArray[np.float64]

CLIP: Final = 3.0
"""Pixels farther than this many sigma from their line say nothing about it."""
ROUNDS: Final = 5
"""Rounds of clipping; the mean moves by less than a tenth of its error after the third."""
REACH: Final = 3
"""Lines on either side that tell what to expect of one."""
LEAST_PIXELS: Final = 5
"""A line with fewer usable pixels takes what its neighbours make likely, and nothing where they say nothing."""


@dataclass(frozen=True, eq=False)
class Stripes:
    """Offsets of the lines of an image.

    Parameters
    ----------
    offset, error : ndarray (n_lines, n_amplifiers) float64
        What each amplifier's piece of each line lies above the sky, and the error of that (image unit).
    n_pixels : ndarray (n_lines, n_amplifiers) int64
        Pixels that told.
    amplitude : float
        Scatter of the offsets of whole lines beyond the pixel noise (image unit); 0: no stripes are seen.
    along_rows : bool
        Whether the lines are rows.
    shape : tuple of int
        Of the image, (ny, nx).
    """

    offset: F64
    error: F64
    n_pixels: NDArray[np.int64]
    amplitude: float
    along_rows: bool
    shape: tuple[int, int]

    @property
    def image(self) -> Image:
        """The stripes as an image (ny, nx; image unit)."""
        return spread_lines(self.offset, self.shape, along_rows=self.along_rows)

    @property
    def error_image(self) -> Image:
        """Their errors as an image (ny, nx; image unit)."""
        return spread_lines(self.error, self.shape, along_rows=self.along_rows)

    @property
    def unseen(self) -> int:
        """Number of pieces of lines without enough usable pixels."""
        return int(np.count_nonzero(self.n_pixels < LEAST_PIXELS))


def amplifier_edges(length: int, amplifiers: int) -> NDArray[np.int64]:
    """Return where the pieces of a line of `length` pixels begin and end, (amplifiers + 1,)."""
    return np.linspace(0, length, amplifiers + 1).round().astype(np.int64)


def spread_lines(values: F64, shape: tuple[int, ...], *, along_rows: bool) -> Image:
    """Return an image of `shape` in which every pixel has the value (n_lines, n_amplifiers) of its piece of line."""
    widths = np.diff(amplifier_edges(shape[1] if along_rows else shape[0], values.shape[1]))
    lines = np.repeat(values.astype(np.float32), widths, axis=1)
    return lines if along_rows else np.ascontiguousarray(lines.T)


def smooth_part(background: Image, *, along_rows: bool, amplifiers: int) -> Image:
    """Return a background (ny, nx) without what of it may be stripes: the drift of whole pieces of lines.

    A drift over many lines follows the mesh of a background as the sky does. Left to the sky are what changes along
    the lines, and a constant rise from the first line to the last.
    """
    lines = background if along_rows else background.T
    edges = amplifier_edges(lines.shape[1], amplifiers)
    level = np.add.reduceat(lines.astype(np.float64), edges[:-1], axis=1) / np.diff(edges)
    number = np.arange(len(level))
    rise = np.polynomial.Polynomial.fit(number, level.mean(axis=1), 1)(number)
    return background - spread_lines(level - rise[:, None], background.shape, along_rows=along_rows)


def find_stripes(
    values: Image, ivar: Image, usable: Mask, *, along_rows: bool = True, amplifiers: int = 1
) -> Stripes:
    """Return the offsets of the lines of an image without sky and stars.

    Parameters
    ----------
    values, ivar : ndarray (ny, nx)
        Image without sky and stars, and its inverse variance.
    usable : ndarray (ny, nx) bool
        Pixels on which neither is doubtful.
    along_rows : bool
        Whether the lines are rows; else columns.
    amplifiers : int
        Pieces of equal length into which each line is cut.

    Returns
    -------
    Stripes
        Their offsets have a median of zero: a common level belongs to the sky.
    """
    shape = (values.shape[0], values.shape[1])
    weight = np.where(usable, ivar, np.float32(0))
    if not along_rows:
        values, weight = values.T, weight.T
    edges = amplifier_edges(values.shape[1], amplifiers)
    pieces = [
        clipped_means(values[:, a:b], weight[:, a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    means, errors, counts = (np.stack(part, axis=1) for part in zip(*pieces, strict=True))
    information = np.where(counts >= LEAST_PIXELS, errors**-2, 0.0)
    total = information.sum(axis=1)
    whole = (means * information).sum(axis=1) / np.where(total > 0, total, 1.0)
    level = np.median(whole[total > 0]) if (total > 0).any() else 0.0
    common, common_var, amplitude = likely_offsets(whole - level, total)
    offset, variance = (
        np.repeat(common[:, None], amplifiers, axis=1),
        np.repeat(common_var[:, None], amplifiers, 1),
    )
    if amplifiers > 1:
        for k in range(amplifiers):
            own, own_var, _ = likely_offsets(means[:, k] - level - common, information[:, k])
            offset[:, k] += own
            # the whole line holds the piece, so its error is not there twice
            variance[:, k] = np.maximum(own_var, common_var)
    return Stripes(offset, np.sqrt(variance), counts, amplitude, along_rows, shape)


def clipped_means(
    values: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[F64, F64, NDArray[np.int64]]:
    """Return the clipped weighted mean of every row, its error, and how many pixels it is made of.

    The noise that pixels are clipped by, and the error, are those which the pixels themselves show where that is more
    than their weight says: undetected stars make a field rougher than its noise.
    """
    seen = weight > 0
    n = np.count_nonzero(seen, axis=1)
    # NaN sorts behind all numbers, so that the median is in the middle of the first n
    ordered = np.sort(np.where(seen, values, np.float32(np.nan)), axis=1)
    rows, middle = np.arange(len(n)), np.maximum(n - 1, 0)
    mean = 0.5 * (ordered[rows, middle // 2].astype(np.float64) + ordered[rows, (middle + 1) // 2])
    mean[n == 0] = 0.0
    root = np.sqrt(weight)
    pull = np.abs(values - mean[:, None].astype(np.float32)) * root
    chi = max(float(MAD * np.median(pull[seen])), 1.0) if seen.any() else 1.0
    total = np.zeros(len(n))
    for _ in range(ROUNDS):
        inside = np.where(np.abs(values - mean[:, None].astype(np.float32)) * root < CLIP * chi, weight, 0)
        total = inside.sum(axis=1, dtype=np.float64)
        mean = (inside * values).sum(axis=1, dtype=np.float64) / np.where(total > 0, total, 1.0)
        n = np.count_nonzero(inside, axis=1)
    return mean, chi / np.sqrt(np.where(total > 0, total, 1e-30)), n


def likely_offsets(measured: F64, information: F64) -> tuple[F64, F64, float]:
    """Return what offsets (n,) are likely to be, the variance of that, and the scatter of true offsets.

    `information` (n,) are the inverse variances of `measured`, 0 where nothing is known. Measured and expected offset
    are weighted by their variances; the expected one is a share of the mean of the neighbours.
    """
    known = information > 0
    if np.count_nonzero(known) < 2 * REACH + 2:
        return np.zeros_like(measured), np.zeros_like(measured), 0.0
    around, told = neighbour_means(measured, information)
    drift = excess_variance(measured[known], information[known])
    if drift == 0.0:
        return np.zeros_like(measured), np.zeros_like(measured), 0.0
    share = clipped_slope(around[known], measured[known])
    expected = share * around
    own = excess_variance((measured - expected)[known], information[known])
    # what the neighbours say is no better than they are measured; where they say nothing, all drift is possible
    rest = np.where(told > 0, np.maximum(own, share**2 / np.where(told > 0, told, 1.0)), drift)
    weight = rest * information / (1 + rest * information)
    return expected + weight * (measured - expected), rest * (1 - weight), float(np.sqrt(drift))


def neighbour_means(values: F64, weight: F64) -> tuple[F64, F64]:
    """Return the weighted mean of up to `REACH` neighbours on either side of each value, and their sum of weights."""
    taps = np.ones(2 * REACH + 1)
    taps[REACH] = 0.0
    total = np.convolve(weight, taps, mode="same")
    return np.convolve(values * weight, taps, mode="same") / np.where(total > 0, total, 1.0), total


def excess_variance(values: F64, information: F64) -> float:
    """Return the robust variance of values about zero beyond that of their noise; 0 unless it is significant."""
    spread = (MAD * np.median(np.abs(values))) ** 2
    noise = float(np.median(1 / information))
    # a robust variance of n values scatters by 1.65 sqrt(2 / n) of itself
    chance = 3 * 1.65 * np.sqrt(2 / len(values)) * noise
    return float(spread - noise) if spread - noise > chance else 0.0


def clipped_slope(x: F64, y: F64) -> float:
    """Return the slope of y over x through the origin, within 0 and 1, from values that are not far out."""
    inside = np.abs(y) < CLIP * MAD * np.median(np.abs(y))
    square = float(np.sum(x[inside] ** 2))
    return float(np.clip(np.sum(x[inside] * y[inside]) / square, 0, 1)) if square > 0 else 0.0
