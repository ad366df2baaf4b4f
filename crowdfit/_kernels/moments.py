"""Weighted centroids of cleaned stamps."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.stamps import fill_window


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
        xc, yc = int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5))
        c0, c1 = max(0, xc - half), min(nx, xc + half + 1)
        r0, r1 = max(0, yc - half), min(ny, yc + half + 1)
        if c0 >= c1 or r0 >= r1 or not flux[i] > 0.0:
            continue
        shape = (r1 - r0, c1 - c0)
        psf = np.empty(shape, np.float32)
        gx = np.empty(shape, np.float32)
        gy = np.empty(shape, np.float32)
        fill_window(coef, basis[i], x[i], y[i], c0, r0, psf, gx, gy)
        weight = np.empty(shape, np.float32)
        clean = np.empty(shape, np.float32)
        total, usable = 0.0, 0.0
        for r in range(shape[0]):
            for c in range(shape[1]):
                w = ivar[r0 + r, c0 + c]
                total += psf[r, c]
                usable += psf[r, c] if w > 0 else np.float32(0)
                weight[r, c] = w * psf[r, c] if use_psf else np.float32(w > 0)
                clean[r, c] = (
                    resid[r0 + r, c0 + c] + np.float32(flux[i]) * psf[r, c] if w > 0 else np.float32(0)
                )
        a, b = np.empty(5), np.empty(5)
        weighted_moments(clean, weight, c0, r0, x[i], y[i], a)
        weighted_moments(psf, weight, c0, r0, x[i], y[i], b)
        sx, sy = np.empty(5), np.empty(5)
        weighted_moments(gx, weight, c0, r0, x[i], y[i], sx)
        weighted_moments(gy, weight, c0, r0, x[i], y[i], sy)
        step[i, 2] = usable / total if total > 0.0 else 0.0
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
