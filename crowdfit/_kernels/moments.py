"""Positions of stars on their cleaned stamps: weighted centroids, and the peak of the matched filter."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.stamps import clip_window, fill_window

PEAK_STEP = 1e-3
"""A step towards a peak that is shorter (pix) is the last one; what it leaves is far smaller still."""


@kernel
def weighted_moments(image, weight, col0, row0, x, y, out):
    """Fill out (5,): sums of w I, w I u, w I v, w |I| and of w, with u, v the offsets from (x, y); rows by columns."""
    out[:] = 0.0
    rows, cols = image.shape
    for r in range(rows):
        v = row0 + r - y
        for c in range(cols):
            w = np.float64(weight[r, c])
            wi = w * image[r, c]
            out[0] += wi
            out[1] += wi * (col0 + c - x)
            out[2] += wi * v
            out[3] += abs(wi)
            out[4] += w


@kernel
def clean_stamp(resid, ivar, psf, flux, col0, row0, clean):
    """Fill clean (rows, cols) float32 with ``resid + flux P`` on usable pixels, 0 elsewhere.

    psf : (rows, cols) float32, P on the window whose first pixel is (col0, row0). Returns the usable share of
    the PSF in the window, 0 where there is none of it.
    """
    total, usable = 0.0, 0.0
    rows, cols = psf.shape
    for r in range(rows):
        for c in range(cols):
            good = ivar[row0 + r, col0 + c] > 0
            total += psf[r, c]
            usable += psf[r, c] if good else np.float32(0)
            clean[r, c] = resid[row0 + r, col0 + c] + np.float32(flux) * psf[r, c] if good else np.float32(0)
    return usable / total if total > 0.0 else 0.0


@tile_kernel
def weighted_steps(coef, basis, x, y, flux, half, use_psf, resid, ivar, step):
    """Fill step (n, 3) float64: step in x and y (pix) and the usable share of the PSF in the window.

    The cleaned stamp is ``c = resid + flux P``; its weight is ``ivar P`` (use_psf) or 1 on usable pixels.
    With m(I) the weighted mean offset (u, v) of I, the step is ``R^-1 (m(c) - m(P))``, where the response R
    (2 x 2) is d m / d shift of the PSF itself over the same usable pixels. R is not diagonal when the PSF is
    elliptical or a mask cuts it.
    """
    ny, nx = resid.shape
    for i in prange(x.size):
        step[i, :] = 0.0
        r0, r1, c0, c1 = clip_window(x[i], y[i], half, ny, nx)
        if c0 >= c1 or r0 >= r1 or not flux[i] > 0.0:
            continue
        shape = (r1 - r0, c1 - c0)
        psf = np.empty(shape, np.float32)
        gx = np.empty(shape, np.float32)
        gy = np.empty(shape, np.float32)
        fill_window(coef, basis[i], x[i], y[i], c0, r0, psf, gx, gy)
        clean = np.empty(shape, np.float32)
        step[i, 2] = clean_stamp(resid, ivar, psf, flux[i], c0, r0, clean)
        weight = np.empty(shape, np.float32)
        for r in range(shape[0]):
            for c in range(shape[1]):
                w = ivar[r0 + r, c0 + c]
                weight[r, c] = w * psf[r, c] if use_psf else np.float32(w > 0)
        a, b = np.empty(5), np.empty(5)
        weighted_moments(clean, weight, c0, r0, x[i], y[i], a)
        weighted_moments(psf, weight, c0, r0, x[i], y[i], b)
        sx, sy = np.empty(5), np.empty(5)
        weighted_moments(gx, weight, c0, r0, x[i], y[i], sx)
        weighted_moments(gy, weight, c0, r0, x[i], y[i], sy)
        if not (a[0] > 0.0 and b[0] > 0.0):
            continue
        # derivatives of sum(w P u) / sum(w P) and of the same with v, with the star's position
        xx, xy = (sx[1] - sx[0] * b[1] / b[0]) / b[0], (sy[1] - sy[0] * b[1] / b[0]) / b[0]
        yx, yy = (sx[2] - sx[0] * b[2] / b[0]) / b[0], (sy[2] - sy[0] * b[2] / b[0]) / b[0]
        det = xx * yy - xy * yx
        if xx > 0.05 and yy > 0.05 and det > 0.05 * 0.05:
            du, dv = a[1] / a[0] - b[1] / b[0], a[2] / a[0] - b[2] / b[0]
            step[i, 0] = (yy * du - xy * dv) / det
            step[i, 1] = (xx * dv - yx * du) / det


@kernel
def filter_sums(clean, ivar, col0, row0, psf, grad_x, grad_y, out):
    """Fill out (9,): sums over a window of c w P, c w Px, c w Py, w P^2, w P Px, w P Py, w Px^2, w Px Py, w Py^2.

    clean, psf, grad_x, grad_y : (rows, cols) float32, c, P and its derivatives; w : ivar (ny, nx) below the window.
    """
    out[:] = 0.0
    rows, cols = clean.shape
    for r in range(rows):
        for k in range(cols):
            w, c = np.float64(ivar[row0 + r, col0 + k]), np.float64(clean[r, k])
            p, px, py = np.float64(psf[r, k]), np.float64(grad_x[r, k]), np.float64(grad_y[r, k])
            out[0] += c * w * p
            out[1] += c * w * px
            out[2] += c * w * py
            out[3] += w * p * p
            out[4] += w * p * px
            out[5] += w * p * py
            out[6] += w * px * px
            out[7] += w * px * py
            out[8] += w * py * py


@kernel
def ascend(sums, step):
    """Fill step (2,) float64 with the Gauss-Newton step in x and y (pix) up the significance of a star's stamp.

    sums : (9,) of `filter_sums`. The gradient of ``S = sum(c w P) / sqrt(sum(w P^2))`` is exact, its curvature that
    of a star of the fitted flux. At most half a pixel long; 0 where there is no peak to climb.
    """
    step[:] = 0.0
    if not (sums[0] > 0.0 and sums[3] > 0.0):
        return
    flux = sums[0] / sums[3]
    gx, gy = sums[1] - flux * sums[4], sums[2] - flux * sums[5]
    xx = sums[6] - sums[4] * sums[4] / sums[3]
    yy = sums[8] - sums[5] * sums[5] / sums[3]
    xy = sums[7] - sums[4] * sums[5] / sums[3]
    det = xx * yy - xy * xy
    if xx > 0.0 and yy > 0.0 and det > 1e-6 * xx * yy:
        dx, dy = (yy * gx - xy * gy) / (det * flux), (xx * gy - xy * gx) / (det * flux)
        shorten = 0.5 / max(np.hypot(dx, dy), 0.5)
        step[0], step[1] = shorten * dx, shorten * dy


@tile_kernel
def peak_steps(coef, basis, x, y, flux, half, reach, resid, ivar, step):
    """Fill step (n, 3) float64: from each star to the peak of its stamp (pix), and the usable share of its PSF.

    The cleaned stamp ``c = resid + flux P`` on the window of half width `half` (pix) around the star is filtered
    with the PSF at a trial position, each pixel weighted with `ivar`; the position climbs to where
    ``sum(c w P) / sqrt(sum(w P^2))`` is largest, at most `reach` (pix) away. A star without a peak stays.
    """
    ny, nx = resid.shape
    for i in prange(x.size):
        step[i, :] = 0.0
        r0, r1, c0, c1 = clip_window(x[i], y[i], half, ny, nx)
        if c0 >= c1 or r0 >= r1 or not flux[i] > 0.0:
            continue
        shape = (r1 - r0, c1 - c0)
        psf, clean = np.empty(shape, np.float32), np.empty(shape, np.float32)
        gx, gy = np.empty(shape, np.float32), np.empty(shape, np.float32)
        fill_window(coef, basis[i], x[i], y[i], c0, r0, psf, gx, gy)
        step[i, 2] = clean_stamp(resid, ivar, psf, flux[i], c0, r0, clean)
        sums, up = np.empty(9), np.zeros(2)
        best, trial_x, trial_y = 0.0, 0.0, 0.0
        for _ in range(30):
            filter_sums(clean, ivar, c0, r0, psf, gx, gy, sums)
            value = sums[0] / np.sqrt(sums[3]) if sums[3] > 0.0 else 0.0
            if value > best:
                best, step[i, 0], step[i, 1] = value, trial_x, trial_y
                ascend(sums, up)
            else:
                # beyond the top
                up *= 0.5
            trial_x, trial_y = step[i, 0] + up[0], step[i, 1] + up[1]
            shorten = reach / max(np.hypot(trial_x, trial_y), reach)
            trial_x, trial_y = shorten * trial_x, shorten * trial_y
            if np.hypot(trial_x - step[i, 0], trial_y - step[i, 1]) < PEAK_STEP:
                step[i, 0], step[i, 1] = trial_x, trial_y
                break
            fill_window(coef, basis[i], x[i] + trial_x, y[i] + trial_y, c0, r0, psf, gx, gy)
