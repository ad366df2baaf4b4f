"""The noise of stars too faint to be found, and the filter that makes it white.

Undetected stars are points like the others: their light scatters with the power spectrum of the PSF,

    noise(k) = N + C |P(k)|^2,      N = variance of a pixel,   C = sum of flux^2 per pixel of the undetected.

Least squares with such noise is least squares with plain weights after data and PSF have been convolved with
``w(k) = 1 / sqrt(1 + (C / N) |P(k)|^2)`` (Kay 1993, section 4.5). The filtered PSF is narrower than the PSF:
light far from a star's centre says less about it when it is likely to be somebody else's.

Where photons of bright stars, or the error of their PSF, outweigh the noise of the sky the same C matters
less. There data and PSF are mixed with the unfiltered ones, in the share that gives the large scales the
weight they should have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its submodules are imported when they are first used
from numba import get_num_threads
from numpy.typing import NDArray

from crowdfit._kernels.filters import fill_share
from crowdfit.exposure import Image
from crowdfit.psf.epsf import EPSF

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LEAST_RATIO = 0.05
"""C / N below which the filter would change weights by less than the noise is known to."""
HALF_RATIO = 2.0
"""C / N that is halved. Fewer undetected stars are single ones, which the fit of their neighbours and the search
meet one by one; there the narrower PSF gathers noise and gives little."""
LEAST_SHARE = 0.02
"""Smallest share of the unfiltered PSF that is mixed in."""
LARGE, BAND = 2**23, 2**21
"""Images of more pixels are convolved in bands of so many."""
REACH = 2.0
"""Half width of the filter (FWHM); beyond it the filter is below a thousandth of its centre."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """The filter for one PSF and one C / N.

    Parameters
    ----------
    psf : EPSF
        The PSF convolved with the filter; its sum is below 1.
    ratio : float
        C / N that the filter is made for.
    kernel : ndarray (m, m) float64 or None
        The filter; None when there is nothing to whiten.
    error_ratio : float
        Error of an isolated faint star with confusion over that without; at least 1.
    """

    psf: EPSF
    ratio: float
    kernel: F64 | None
    error_ratio: float


@lru_cache(maxsize=4)
def whitening(psf: EPSF, ratio: float) -> Whitening:
    """Return the filter for a PSF and the C / N of the undetected stars."""
    ratio = effective(ratio)
    if not ratio > LEAST_RATIO:
        return Whitening(psf, ratio, None, 1.0)
    kernel = whitening_kernel(psf, ratio)
    filtered = convolved_psf(psf, kernel)
    return Whitening(filtered, ratio, kernel, float(np.sqrt(filtered.n_eff / psf.n_eff)))


@dataclass(frozen=True, eq=False)
class Whitened:
    """The residual of a frame after the filter.

    Parameters
    ----------
    resid : ndarray (ny, nx) float32
        The residual convolved with the filter and mixed with the unfiltered one (image unit).
    share : ndarray (ny, nx) float32
        Share of the unfiltered residual, and of the unfiltered PSF in stamps.
    """

    resid: Image
    share: Image

    @classmethod
    def of(cls, whitening: Whitening, resid: Image, brightness: Callable[[], Image]) -> "Whitened":
        """Return what the filter makes of a residual.

        `brightness` gives, (ny, nx), what stars add to the noise, photons and error of their model, as variance over N;
        it is called when there is a filter.
        """
        kernel = whitening.kernel
        if kernel is None:
            return cls(resid, np.zeros_like(resid))
        # what is large is given back as soon as it has been used: a large image has many planes besides
        share = unfiltered_share(
            whitening.ratio, scipy.ndimage.uniform_filter(brightness(), len(kernel), mode="nearest")
        )
        filtered = convolve(resid, kernel)
        unfiltered = resid - filtered
        unfiltered *= share
        filtered += unfiltered
        return cls(filtered, share)


def effective(ratio: float) -> float:
    """Return the ratio that the filter is made for: C / N where it is large, next to nothing where it is small."""
    # a plain float would leave what follows in float32, so that its bits would depend on where the ratio came from
    ratio = np.float64(ratio)
    return ratio**3 / (ratio**2 + HALF_RATIO**2)


def unfiltered_share(ratio: float, brightness: Image) -> Image:
    """Return the share that gives scale zero the weight of the filter for C over the local noise.

    `brightness` is a mean over the width of the filter, which sees no noise of single pixels.
    Shares below `LEAST_SHARE` are set to 0: most pixels need no second PSF.
    """
    share = np.empty_like(brightness)
    fill_share(brightness, ratio, LEAST_SHARE, share)
    return share


def whitening_kernel(psf: EPSF, ratio: float) -> F64:
    """Return the filter ``1 / sqrt(1 + ratio |P(k)|^2)`` on the pixels of an image, odd square, symmetric."""
    half = max(int(np.ceil(REACH * psf.fwhm)), 2)
    stamp = psf.native(8 * half + 1).astype(np.float64)
    power = np.abs(scipy.fft.rfft2(stamp)) ** 2
    whole = scipy.fft.fftshift(scipy.fft.irfft2(1 / np.sqrt(1 + ratio * power), stamp.shape))
    middle = stamp.shape[0] // 2
    return np.ascontiguousarray(whole[middle - half : middle + half + 1, middle - half : middle + half + 1])


def convolve(images: NDArray[np.floating], kernel: F64) -> F32:
    """Return images (..., ny, nx) convolved with an odd kernel, zeros beyond their borders, float32.

    An image of more than `LARGE` pixels is taken in bands, for the transforms take seven times its memory.
    """
    half, (ny, nx) = kernel.shape[0] // 2, images.shape[-2:]
    if images.size <= LARGE or images.ndim > 2:
        return _convolved(images, kernel)
    out, rows = np.empty(images.shape, np.float32), max(BAND // nx, 8 * half + 1)
    for low in range(0, ny, rows):
        high, first = min(low + rows, ny), max(low - half, 0)
        out[low:high] = _convolved(images[first : high + half], kernel)[low - first : high - first]
    return out


def _convolved(images: NDArray[np.floating], kernel: F64) -> F32:
    """Return what `convolve` does, by one transform of the whole."""
    half = kernel.shape[0] // 2
    ny, nx = images.shape[-2:]
    shape = [scipy.fft.next_fast_len(n + 2 * half, real=True) for n in (ny, nx)]
    # on the planes of one star threads cost more than they save
    workers = get_num_threads() if images.size > 200_000 else 1
    product = scipy.fft.rfft2(kernel, shape) * scipy.fft.rfft2(images, shape, workers=workers)
    whole = scipy.fft.irfft2(product, shape, workers=workers, overwrite_x=True)
    del product
    return np.ascontiguousarray(whole[..., half : half + ny, half : half + nx], np.float32)


def convolved_psf(psf: EPSF, kernel: F64) -> EPSF:
    """Return the PSF convolved with a kernel of native pixels."""
    s = psf.oversample
    sparse = np.zeros(((kernel.shape[0] - 1) * s + 1,) * 2)
    sparse[::s, ::s] = kernel
    return psf.with_cube(np.stack([convolve(plane, sparse) for plane in psf.cube]).astype(np.float64))
