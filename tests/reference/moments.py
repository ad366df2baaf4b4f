"""Twins of `crowdfit._kernels.moments`."""

import numpy as np
from scipy.optimize import minimize

from tests.reference import span
from tests.reference.stamps import at_pixels


def weighted_moments(image, weight, u, v):
    """Return sums of w I, w I u, w I v, w |I| and w, with offsets u, v from the star."""
    light = weight * image
    return np.array([np.sum(q) for q in (light, light * u, light * v, np.abs(light), weight)])


def clean_stamp(resid, ivar, psf, flux):
    """Return the cleaned stamp and the usable share of the PSF; arrays are cut to the window."""
    good = ivar > 0
    return np.where(good, resid + flux * psf, 0), psf[good].sum() / psf.sum()


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

    clean, share = clean_stamp(resid[cut], ivar[cut], psf(), flux)
    h = 1e-4
    response = np.column_stack(
        [(barycentre(psf(*shift)) - barycentre(psf(*-shift))) / (2 * h) for shift in h * np.eye(2)]
    )
    step = np.linalg.solve(response, barycentre(clean) - barycentre(psf()))
    if min(np.diag(response)) <= 0.05 or np.linalg.det(response) <= 0.0025 or np.sum(weight * clean) <= 0:
        step = np.zeros(2)
    return np.array([*step, share])


def weighted_steps(coef, basis, x, y, flux, half, use_psf, resid, ivar):
    stars = zip(basis, x, y, flux, strict=True)
    return np.array([weighted_step(coef, *star, half, use_psf, resid, ivar) for star in stars])


def filter_sums(clean, ivar, psf, grad_x, grad_y):
    """Return the products of c, P, Px and Py that the matched filter and its slope are made of, weighted with ivar."""
    c, p, px, py = (np.asarray(a, float) for a in (clean, psf, grad_x, grad_y))
    pairs = ((c, p), (c, px), (c, py), (p, p), (p, px), (p, py), (px, px), (px, py), (py, py))
    return np.array([np.sum(ivar * a * b) for a, b in pairs])


def ascend(sums):
    """Return the shift of the least-squares fit of flux and both slopes: normal equations, then slope over flux."""
    normal = np.array([[sums[3], sums[4], sums[5]], [sums[4], sums[6], sums[7]], [sums[5], sums[7], sums[8]]])
    if not (sums[0] > 0 and sums[3] > 0 and np.linalg.matrix_rank(normal) == 3):
        return np.zeros(2)
    step = np.linalg.solve(normal, sums[:3])[1:] / (sums[0] / sums[3])
    return step * min(1, 0.5 / np.hypot(*step))


def peak_step(coef, basis, x, y, flux, half, resid, ivar):
    """Return the way from a star to the top of its significance, by a search without slopes, and its usable share."""
    ny, nx = resid.shape
    cols, rows = span(x, half, nx), span(y, half, ny)
    if not (cols.size and rows.size and flux > 0):
        return np.zeros(3)
    cut = np.ix_(rows, cols)

    def psf(shift=(0.0, 0.0)):
        return at_pixels(coef, basis, x + shift[0], y + shift[1], cols, rows)[0]

    clean, share = clean_stamp(resid[cut], ivar[cut], psf(), flux)

    def depth(shift):
        p = psf(shift)
        return -np.sum(ivar[cut] * clean * p) / np.sqrt(np.sum(ivar[cut] * p * p))

    if not share > 0 or depth(np.zeros(2)) > 0:
        return np.array([0, 0, share])
    top = minimize(depth, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    return np.array([*top.x, share])


def peak_steps(coef, basis, x, y, flux, half, resid, ivar):
    stars = zip(basis, x, y, flux, strict=True)
    return np.array([peak_step(coef, *star, half, resid, ivar) for star in stars])
