"""Noise that neighbouring pixels share, as after drizzling, and what it does to errors.

An error image says how much single pixels scatter. Where resampling has spread the noise of each over its
neighbours, a PSF gathers more of it than of independent noise with the same scatter (P061). The covariance of
pixels is measured where no star shines. Undetected stars make pixels alike too, but over as many as the PSF covers;
what resampling does ends after two. The measured covariance is therefore taken apart into that of noise spread by a
kernel (k, 1 - 2 k, k) along both axes and the overlap of PSFs.
"""

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.frame import Factors, Frame
from crowdfit.psf.epsf import EPSF

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SHARED = 2
"""Resampling makes pixels alike up to this many rows and columns apart."""
FAR = 4
"""Covariances are measured up to this many rows and columns apart."""
KERNELS = np.linspace(0, 0.3, 31)
"""Trial values of k; 1/4 is a triangle of two pixels half width, 1/3 the mean of three pixels."""
WELL_SAMPLED = 3.0
"""FWHM above which the square of the overlap of PSFs, which is narrower, also stands for stars (pix). A fit takes
away the broad part of their covariance; of a narrower PSF the square looks like resampling."""
FAINT = 1.0
"""Pixels take part where stars are fainter than this (sigma)."""
LEAST_PIXELS = 2000
"""With fewer pixels none take part; brighter stars are then allowed under them."""
OUTLIER = 5.0
"""Pixels with a residual above this tell of something else (sigma)."""
LEAST = 0.05
"""Smallest correlation of neighbours that is believed; fields without any give up to 0.03."""
SURE = 5.0
"""It must also be this many times its error."""
ENOUGH, BAND = 2**18, 64
"""Of more pixels than this, bands of so many rows are used, evenly over the image."""


def noise_factors(frame: Frame) -> Factors:
    """Return the factors of a fitted frame."""
    chi, usable = blank_pixels(frame)
    if np.count_nonzero(usable) < LEAST_PIXELS:
        return Factors()
    covariance, pairs = covariances_in(bands(chi.shape), chi, usable, FAR)
    value, slope = psf_overlaps(frame.psf, FAR)
    stars = covariance_of_stars(covariance, value, square=frame.psf.fwhm > WELL_SAMPLED)
    row, col = np.indices(covariance.shape)
    own = np.where(np.maximum(row, col) > SHARED, 0.0, covariance - stars)
    if not own[0, 0] > 0:
        return Factors()
    shared = own / own[0, 0]
    beside = (shared[0, 1] + shared[1, 0]) / 2
    if not beside > max(LEAST, SURE / np.sqrt(pairs[0, 1] + pairs[1, 0])):
        return Factors()
    # every pair of pixels occurs with either sign of both steps
    times = np.where(row > 0, 2, 1) * np.where(col > 0, 2, 1)
    gains = (float(np.sum(shared * times * overlap)) for overlap in (value, slope))
    return Factors(*(float(np.sqrt(max(gain, 1.0))) for gain in gains))


def covariance_of_stars(covariance: F64, overlap: F64, *, square: bool) -> F64:
    """Return the part of a covariance that undetected stars make, the rest being resampled noise, (m, m).

    Parameters
    ----------
    covariance, overlap : ndarray (m, m) float64
        Of pixels r rows and c columns apart, and of PSFs.
    square : bool
        Whether stars also make a part with the shape of the square of the overlap.
    """
    parts = [overlap, overlap**2] if square else [overlap]
    least, best = np.inf, np.zeros_like(overlap)
    for k in KERNELS:
        row = np.zeros(len(covariance))
        row[:3] = [(1 - 2 * k) ** 2 + 2 * k**2, 2 * k * (1 - 2 * k), k**2]
        design = np.stack([np.outer(row, row) / row[0] ** 2, *parts]).reshape(1 + len(parts), -1)
        found, misfit = scipy.optimize.nnls(design.T, covariance.ravel())
        if misfit < least:
            least, best = misfit, (found[1:] @ design[1:]).reshape(overlap.shape)
    return best


def blank_pixels(frame: Frame) -> tuple[F32, NDArray[np.bool_]]:
    """Return the residual over its error, (ny, nx), 0 where not used, and which pixels without stars are used."""
    root = np.sqrt(frame.fit_ivar)
    level = FAINT * frame.noise
    usable = frame.exposure.good & (frame.model < level)
    while np.count_nonzero(usable) < LEAST_PIXELS and level < 10 * frame.noise:
        level *= 2
        usable = frame.exposure.good & (frame.model < level)
    chi = frame.resid * root
    usable &= np.abs(chi) < OUTLIER
    mean = np.float32(chi[usable].mean(dtype=np.float64)) if usable.any() else np.float32(0)
    return np.where(usable, chi - mean, np.float32(0)), usable


def bands(shape: tuple[int, int]) -> list[slice]:
    """Return the rows that are used of an image: all, or bands that hold about `ENOUGH` pixels."""
    ny, nx = shape
    most = max(ENOUGH // (BAND * nx), 1)
    if ny * nx <= ENOUGH or most * BAND >= ny:
        return [slice(0, ny)]
    return [slice(int(first), int(first) + BAND) for first in np.linspace(0, ny - BAND, most + 2)[1:-1]]


def covariances_in(parts: list[slice], chi: F32, usable: NDArray[np.bool_], most: int) -> tuple[F64, F64]:
    """Return what `covariances` does, of all pairs within one part of the rows."""
    mean, pairs = np.zeros((2, most + 1, most + 1))
    for rows in parts:
        here, number = covariances(chi[rows], usable[rows], most)
        mean += here * number
        pairs += number
    return mean / np.maximum(pairs, 1.0), pairs


def covariances(chi: F32, usable: NDArray[np.bool_], most: int) -> tuple[F64, F64]:
    """Return mean products of usable pixels up to `most` rows and columns apart, and how many there are.

    Both (most + 1, most + 1) float64; entry [r, c] is the mean over steps of (r, c) and (r, -c).
    """
    mean, pairs = np.zeros((2, most + 1, most + 1))
    for r in range(most + 1):
        for c in range(most + 1):
            total = number = 0.0
            # in the same row a step to the left is the same pair
            for side in {c, -c} if r else {c}:
                here = np.s_[: chi.shape[0] - r, max(-side, 0) : chi.shape[1] - max(side, 0)]
                there = np.s_[r:, max(side, 0) : chi.shape[1] - max(-side, 0)]
                total += float(np.sum(chi[here] * chi[there], dtype=np.float64))
                number += float(np.count_nonzero(usable[here] & usable[there]))
            pairs[r, c] = number
            mean[r, c] = total / max(number, 1.0)
    return mean, pairs


def psf_overlaps(psf: EPSF, most: int) -> tuple[F64, F64]:
    """Return how much PSFs, and their slopes along an axis, overlap up to `most` rows and columns apart.

    Both (most + 1, most + 1) float64 and 1 at [0, 0]; the second is the mean over both axes.
    """
    planes = psf.middle.planes(0.0, 0.0).astype(np.float64)
    shape = [2 * n for n in planes.shape[1:]]
    power = np.abs(np.fft.rfft2(planes, shape)) ** 2
    found = []
    for part in (power[0], power[1] + power[2]):
        overlap = np.fft.irfft2(part, shape)
        mirrored = (overlap + np.roll(overlap[:, ::-1], 1, axis=1)) / 2
        found.append(mirrored[: most + 1, : most + 1] / mirrored[0, 0])
    return found[0], found[1]
