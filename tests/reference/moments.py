"""Twins of `crowdfit._kernels.moments`."""

import numpy as np

from tests.reference import span
from tests.reference.stamps import at_pixels


def weighted_moments(image, weight, u, v):
    """Return sums of w I, w I u, w I v, w |I| and w, with offsets u, v from the star."""
    light = weight * image
    return np.array([np.sum(q) for q in (light, light * u, light * v, np.abs(light), weight)])


def weighted_step(coef, basis, x, y, flux, half, use_psf, resid, ivar):
    """Return the step of one star and the usable share of its PSF.

    The step that moves the barycentre of the PSF onto that of the star; how it responds, by finite differences.
    """
    ny, nx = resid.shape
    cols, rows = span(x, half, nx), span(y, half, ny)
    if not (cols.size and rows.size and flux > 0):
        return np.zeros(3)
    cut = np.ix_(rows, cols)
    good = ivar[cut] > 0
    v, u = np.meshgrid(rows - y, cols - x, indexing="ij")

    def psf(shift_x=0.0, shift_y=0.0):
        return at_pixels(coef, basis, x + shift_x, y + shift_y, cols, rows)[0]

    weight = ivar[cut] * psf() if use_psf else good.astype(float)

    def barycentre(image):
        total, along_x, along_y = weighted_moments(image, weight, u, v)[:3]
        return np.array([along_x, along_y]) / total

    clean = np.where(good, resid[cut] + flux * psf(), 0)
    h = 1e-4
    response = np.column_stack(
        [(barycentre(psf(*shift)) - barycentre(psf(*-shift))) / (2 * h) for shift in h * np.eye(2)]
    )
    step = np.linalg.solve(response, barycentre(clean) - barycentre(psf()))
    if min(np.diag(response)) <= 0.05 or np.linalg.det(response) <= 0.0025 or np.sum(weight * clean) <= 0:
        step = np.zeros(2)
    return np.array([*step, psf()[good].sum() / psf().sum()])


def weighted_steps(coef, basis, x, y, flux, half, use_psf, resid, ivar):
    stars = zip(basis, x, y, flux, strict=True)
    return np.array([weighted_step(coef, *star, half, use_psf, resid, ivar) for star in stars])
