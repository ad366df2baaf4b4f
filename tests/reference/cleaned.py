"""Twins of `crowdfit._kernels.cleaned`."""

import numpy as np
from astropy.stats import sigma_clip

from tests.reference import nearest, span
from tests.reference.stamps import at_pixels


def fill_cell(coef, basis, x, y, flux, half, radius, level, frame, mid):
    """Return the five planes of one cell, each (2 mid + 1, 2 mid + 1)."""
    resid, ivar, model = (np.asarray(plane, float) for plane in frame)
    ny, nx = resid.shape
    cols, rows = nearest(x) + np.arange(-mid, mid + 1), nearest(y) + np.arange(-mid, mid + 1)
    far = np.maximum(*np.abs(np.meshgrid(cols - nearest(x), rows - nearest(y))))
    inner = slice(mid - min(mid, radius), mid + min(mid, radius) + 1)
    own = np.zeros((2 * mid + 1, 2 * mid + 1))
    own[inner, inner] = at_pixels(coef, basis, x, y, cols[inner], rows[inner])[0]
    star = np.where(far <= half, flux * own, 0)
    light, noise, usable, others = star.copy(), np.zeros_like(own), np.zeros_like(own), np.zeros_like(own)
    for r, row in enumerate(rows):
        for c, col in enumerate(cols):
            if 0 <= row < ny and 0 <= col < nx:
                others[r, c] = model[row, col] - star[r, c]
                if ivar[row, col] > 0:
                    light[r, c] += resid[row, col] - level
                    noise[r, c], usable[r, c] = 1 / ivar[row, col], 1
    return light, own, noise, usable, others


def fill_cells(coef, basis, x, y, flux, half, radius, level, frame, per_row, mid, shape):
    """Return the five canvases of this shape."""
    planes, side = np.zeros((5, *shape)), 2 * mid + 1
    for k in range(len(x)):
        row, col = (k // per_row) * side, (k % per_row) * side
        star = (x[k], y[k], flux[k], half[k], radius, level[k])
        planes[:, row : row + side, col : col + side] = fill_cell(coef, basis[k], *star, frame, mid)
    return planes


def clip_median(values, clip, iterations):
    """Return clipped median, its error and the number of values left."""
    kept = (
        sigma_clip(values, sigma=clip, maxiters=iterations, masked=False)
        if iterations
        else np.asarray(values)
    )
    return np.median(kept), np.std(kept) * np.sqrt(np.pi / 2 / len(kept)), len(kept)


def measure_rings(x, y, inner, outer, clip, iterations, least, resid, ivar):
    rows, cols = np.indices(resid.shape)
    out = []
    for at_x, at_y in zip(x, y, strict=True):
        distance = np.hypot(cols - at_x, rows - at_y)
        values = resid[(distance >= inner) & (distance <= outer) & (ivar > 0)]
        enough = len(values) >= least
        result = clip_median(values.astype(float), clip, iterations)[:2] if enough else (np.nan, np.nan)
        out.append([*result, len(values)])
    return np.array(out)


def collect_bits(x, y, radii, dq):
    """Return the OR over pixels, each divided so finely that one part of a touched one is in the circle."""
    fine = (np.arange(101) - 50) / 100
    out = np.zeros((len(x), len(radii)), np.uint32)
    for k in range(len(x)):
        for j, radius in enumerate(radii):
            for row in span(y[k], int(radius) + 2, dq.shape[0]):
                for col in span(x[k], int(radius) + 2, dq.shape[1]):
                    distance = np.hypot(col - x[k] + fine[:, None], row - y[k] + fine)
                    if distance.min() < radius:
                        out[k, j] |= dq[row, col]
    return out


def weighted_shape(image, x, y, shape, reach):
    """Return the second moments of the light under a Gaussian of the moments xx, yy, xy."""
    matrix = np.array([[shape[0], shape[2]], [shape[2], shape[1]]])
    if not (np.linalg.det(matrix) > 0 and shape[0] > 0):
        return np.full(3, np.nan)
    rows, cols = (nearest(at) + np.arange(-reach, reach + 1) for at in (y, x))
    v, u = np.meshgrid(rows - y, cols - x, indexing="ij")
    offsets = np.stack([u, v], axis=-1)
    square = np.einsum("...i,ij,...j", offsets, np.linalg.inv(matrix), offsets)
    light = np.where(square <= 16, np.exp(-square / 2), 0) * image[np.ix_(rows, cols)]
    if light.sum() <= 0:
        return np.full(3, np.nan)
    return np.array([np.sum(light * part) for part in (u * u, v * v, u * v)]) / light.sum()


def fit_ellipses(image, x, y, sigma, reach):
    """Return the fixed points, by plain repetition."""
    out = np.full((len(x), 3), np.nan)
    for k in range(len(x)):
        shape = np.array([sigma**2, sigma**2, 0.0])
        for _ in range(200):
            shape = 2 * weighted_shape(image, x[k], y[k], shape, reach)
        least, most = (
            np.linalg.eigvalsh([[shape[0], shape[2]], [shape[2], shape[1]]])
            if np.all(np.isfinite(shape))
            else (0, 0)
        )
        if least > 0.09 and most < reach**2 / 4:
            out[k] = shape
    return out
