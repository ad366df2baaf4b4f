"""Twins of `crowdfit._kernels.psf_sums`: dense normal equations of the PSF's unknowns."""

import numpy as np

from tests.reference import span
from tests.reference.stamps import at_pixels, bspline


def robust_weight(ivar, resid, own, total, trust, clip):
    own, total, resid = (np.asarray(plane, float) for plane in (own, total, resid))
    with np.errstate(divide="ignore"):
        variance = 1 / np.asarray(ivar, float) + (trust[0] * own) ** 2 + (trust[1] * (total - own)) ** 2
    return 1 / variance / (1 + resid**2 / variance / clip**2)


def window_of(x, y, reach, shape):
    """Return columns, rows, and the offsets (u, v) of the pixels that a star may use."""
    cols, rows = (span(at, int(reach), n) for at, n in ((x, shape[1]), (y, shape[0])))
    v, u = np.meshgrid(rows - y, cols - x, indexing="ij")
    return cols, rows, u, v


def add_star_to_table(coefs, basis, x, y, flux, reach, s, trust, clip, image, side):
    """Return the normal matrix (side^2 + 1, side^2 + 1) and vector of one star, from one row of splines per pixel.

    The last unknown is the constant that all stars share.
    """
    every, resid, ivar = image
    cols, rows, u, v = window_of(x, y, reach, resid.shape)
    if not (cols.size and rows.size):
        return np.zeros((side**2 + 1, side**2 + 1)), np.zeros(side**2 + 1)
    cut = np.ix_(rows, cols)
    model, part = (flux * at_pixels(coef, basis, x, y, cols, rows)[0] for coef in coefs)
    weight = robust_weight(ivar[cut], resid[cut], model, every[cut], trust, clip)
    knots = np.arange(side) - side // 2
    along_x, along_y = bspline((cols - x)[:, None] * s - knots), bspline((rows - y)[:, None] * s - knots)
    equations = flux * np.einsum("ri,cj->rcij", along_y, along_x).reshape(rows.size, cols.size, -1)
    # a pixel counts when all four knots on either side of it are there
    whole = (np.abs(along_y.sum(1) - 1) < 1e-12)[:, None] & (np.abs(along_x.sum(1) - 1) < 1e-12)[None, :]
    use = (np.hypot(u, v) <= reach) & whole & (weight > 0)
    equations, target, weight = equations[use], (resid[cut] + part)[use], weight[use]
    equations = np.column_stack([equations, np.ones(len(equations))])
    return (equations.T * weight) @ equations, equations.T @ (weight * target)


def accumulate_table(coefs, basis, x, y, flux, reach, s, trust, clip, image, part, side):
    """Return the normal matrix and vector of the stars of each part that has some."""
    out = {}
    for k, *star in zip(part, basis, x, y, flux, reach, strict=True):
        one = add_star_to_table(coefs, *star, s, trust, clip, image, side)
        out[k] = [a + b for a, b in zip(out[k], one, strict=True)] if k in out else one
    return out


def apply_stencils(matrices, coefs):
    """Return the products of the dense matrices."""
    each = [stencil_to_dense(m) @ np.ravel(c) for m, c in zip(matrices, coefs, strict=True)]
    return np.reshape(each, np.shape(coefs))


def stencil_to_dense(stencil):
    """Return the matrix (side^2, side^2) of a stencil (side, side, 7, 7)."""
    side = len(stencil)
    out = np.zeros((side, side, side, side))
    for (r, c, dr, dc), value in np.ndenumerate(stencil):
        if value:
            out[r, c, r + dr - 3, c + dc - 3] = value
    return out.reshape(side**2, side**2)


def add_star_to_profile(coef, x, y, flux, reach, shape, knots, weights, trust, clip, image, n):
    """Return the normal matrix (n, n) and vector of one star, a constant under it fitted along and eliminated."""
    every, resid, ivar = image
    cols, rows, u, v = window_of(x, y, reach, resid.shape)
    if not (cols.size and rows.size):
        return np.zeros((n, n)), np.zeros(n)
    cut = np.ix_(rows, cols)
    model = flux * at_pixels(coef, [1.0], x, y, cols, rows)[0]
    radius = np.sqrt(shape[0] * u**2 + shape[1] * u * v + shape[2] * v**2)
    at = np.floor(radius * weights[-1, 0] + 0.5).astype(int)
    weight = robust_weight(ivar[cut], resid[cut], model, every[cut], trust, clip)
    use = (radius <= reach) & (at < len(knots) - 1) & (weight > 0)
    equations = np.zeros((np.count_nonzero(use), n + 1))
    for a in range(4):
        equations[np.arange(len(equations)), knots[at[use]] + a] = flux * weights[at[use], a]
    equations[:, n] = 1
    matrix = (equations.T * weight[use]) @ equations
    vector = equations.T @ (weight[use] * (resid[cut] + model)[use])
    if not len(equations):
        return matrix[:n, :n], vector[:n]
    lift = matrix[:n, n:] / matrix[n, n]
    return matrix[:n, :n] - lift @ matrix[n:, :n], vector[:n] - lift[:, 0] * vector[n]


def accumulate_profile(coef, x, y, flux, reach, shape, knots, weights, trust, clip, image, n):
    stars = [
        add_star_to_profile(coef, *star, shape, knots, weights, trust, clip, image, n)
        for star in zip(x, y, flux, reach, strict=True)
    ]
    return sum(m for m, _ in stars), sum(v for _, v in stars)
