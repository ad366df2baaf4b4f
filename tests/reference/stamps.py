"""Twins of `crowdfit._kernels.stamps`: the PSF as a sum of B-splines over all knots of the table."""

from math import comb

import numpy as np
from scipy.signal import convolve2d

from tests.reference import nearest


def clip_window(x, y, half, ny, nx):
    """Return the rows and the columns of a window that lie on the image."""
    rows, cols = nearest(y) + np.arange(-half, half + 1), nearest(x) + np.arange(-half, half + 1)
    return rows[(rows >= 0) & (rows < ny)], cols[(cols >= 0) & (cols < nx)]


def bspline(t, derivative=False):
    """Return the cubic B-spline, or its derivative, from truncated powers (Schoenberg 1946)."""
    t = np.asarray(t, float)
    order = 2 if derivative else 3
    total = np.zeros(t.shape)
    for k in range(5):
        total += (-1) ** k * comb(4, k) * np.maximum(t + 2 - k, 0) ** order
    return np.where(np.abs(t) < 2, total / (2 if derivative else 6), 0)


def knots(coef, basis):
    """Return the spline coefficients at a star as one fine image, float64."""
    planes = [plane.transpose(2, 0, 3, 1).reshape(2 * [plane.shape[0] * plane.shape[2]]) for plane in coef]
    return np.tensordot(np.asarray(basis, float), np.array(planes, float), 1)


def spline_weights(t):
    taps = t - np.array([-1, 0, 1, 2])
    return bspline(taps), bspline(taps, derivative=True)


def locate_taps(frac, s):
    first = int(np.floor(-frac * s)) - 1
    native, phase = np.divmod(np.arange(first, first + 4), s)
    w, d = spline_weights(-frac * s - (first + 1))
    return phase, native, w, -s * d


def add_row(taps, wx, dx, wy, dy, value, grad_x, grad_y):
    taps = np.asarray(taps, float)
    return value + wy * (wx @ taps), grad_x + wy * (dx @ taps), grad_y + dy * (wx @ taps)


def add_row_value(taps, wx, wy, value):
    return value + wy * (wx @ np.asarray(taps, float))


def count_used(basis):
    used = np.flatnonzero(basis)
    return len(used), used[-1] if len(used) else 0


def add_scaled(factor, row, out):
    return np.asarray(out, float) + factor * np.asarray(row, float)


def mix_planes(coef, basis, row, col, rows, cols):
    mixed = np.tensordot(np.asarray(basis, float), np.asarray(coef, float), 1)
    return mixed[:, :, row : row + rows, col : col + cols]


def at_pixels(coef, basis, x, y, cols, rows):
    """Return P, dP/dx and dP/dy of a star at (x, y) on the given columns and rows, (3, rows, cols)."""
    s, k = coef.shape[1], coef.shape[3]
    table = knots(coef, basis)
    grid = np.arange(k * s)
    middle = k // 2 * s
    u = (middle + (np.asarray(cols) - x) * s)[:, None] - grid
    v = (middle + (np.asarray(rows) - y) * s)[:, None] - grid
    value_x, slope_x = bspline(u), -s * bspline(u, derivative=True)
    value_y, slope_y = bspline(v), -s * bspline(v, derivative=True)
    return np.array(
        [value_y @ table @ value_x.T, value_y @ table @ slope_x.T, slope_y @ table @ value_x.T]
    ).reshape(3, len(rows), len(cols))


def fill_window(coef, basis, x, y, col0, row0, shape):
    return at_pixels(coef, basis, x, y, col0 + np.arange(shape[1]), row0 + np.arange(shape[0]))


def add_window(coef, basis, x, y, flux, c0, c1, r0, r1, image):
    out = np.array(image, float)
    out[r0:r1, c0:c1] += flux * at_pixels(coef, basis, x, y, np.arange(c0, c1), np.arange(r0, r1))[0]
    return out


def fill_one_stamp(coef, basis, x, y, half):
    pixels = np.arange(-half, half + 1)
    return at_pixels(coef, basis, x, y, nearest(x) + pixels, nearest(y) + pixels)


def fill_stamps(coef, basis, x, y, half):
    flat = [fill_one_stamp(coef, *star).reshape(3, -1) for star in zip(basis, x, y, half, strict=True)]
    return np.concatenate(flat, axis=1)


def blend_stamps(coef, basis, x, y, half, offset, share, stamps):
    """Return the stamps mixed with those of another PSF on the image; off it they stay."""
    out = np.array(stamps, float)
    for i in range(len(x)):
        size = 2 * half[i] + 1
        cut = out[:, offset[i] : offset[i] + size**2].reshape(3, size, size)
        rows, cols = clip_window(x[i], y[i], half[i], *share.shape)
        if not (rows.size and cols.size):
            continue
        at = np.ix_(rows - nearest(y[i]) + half[i], cols - nearest(x[i]) + half[i])
        other = at_pixels(coef, basis[i], x[i], y[i], cols, rows)
        for k in range(3):
            cut[k][at] += share[np.ix_(rows, cols)] * (other[k] - cut[k][at])
    return out


def bounds_above_zero(image, r0, r1, c0, c1):
    """Return the box (r0, r1, c0, c1) of what is above 0, None if nothing is."""
    rows, cols = np.nonzero(image[r0:r1, c0:c1] > 0)
    if not rows.size:
        return None
    return r0 + rows.min(), r0 + rows.max() + 1, c0 + cols.min(), c0 + cols.max() + 1


def take_away(factor, line, out):
    return np.asarray(out, float) - float(factor) * np.asarray(line)


def mask_one_stamp(coef, basis, x, y, half, good, kernel, stamp):
    """Return (3, n, n) without what the filter carries there from masked pixels and from beyond the image."""
    rows, cols = nearest(y) + np.arange(-half, half + 1), nearest(x) + np.arange(-half, half + 1)
    bad = np.ones((len(rows), len(cols)), bool)
    ny, nx = good.shape
    on = np.ix_((rows >= 0) & (rows < ny), (cols >= 0) & (cols < nx))
    bad[on] = ~good[np.ix_(rows[(rows >= 0) & (rows < ny)], cols[(cols >= 0) & (cols < nx)])]
    light = at_pixels(coef, basis, x, y, cols, rows) * bad
    return stamp - np.array([convolve2d(plane, kernel, mode="same") for plane in light])


def mask_stamps(coef, basis, x, y, half, offset, good, box, kernel, stamps):
    out = np.array(stamps, float)
    for i in range(len(x)):
        rows, cols = clip_window(x[i], y[i], box, *good.shape)
        if np.sum(good[np.ix_(rows, cols)]) >= 0.9 * (2 * box + 1) ** 2:
            continue
        size = 2 * half[i] + 1
        cut = out[:, offset[i] : offset[i] + size**2].reshape(3, size, size)
        cut[...] = mask_one_stamp(coef, basis[i], x[i], y[i], half[i], good, kernel, cut)
    return out
