"""Twins of `crowdfit._kernels.score`: the score test with dense matrices, and brute-force neighbours."""

import numpy as np

from tests.reference import span
from tests.reference.stamps import at_pixels


def nearest_members(x, y, x0, y0, reach, most):
    distance = np.hypot(x - x0, y - y0)
    order = np.argsort(distance, kind="stable")
    return order[distance[order] <= reach][:most]


def factorize(matrix):
    return np.linalg.cholesky(matrix)


def forward_solve(factor, v):
    return np.linalg.solve(np.tril(factor), v)


def backward_solve(factor, v):
    return np.linalg.solve(np.tril(factor).T, v)


def add_multiple(row, other, factor):
    return np.asarray(row, float) + factor * np.asarray(other, float)


def whiten_window(root, col0, row0, window, columns, at):
    rows, cols = window
    out = np.array(columns, float)
    out[at : at + 3] *= np.asarray(root, float)[row0 : row0 + rows, col0 : col0 + cols].ravel()
    return out


def remove_component(columns, n, common):
    """Return the columns with the first n made orthogonal to `common`."""
    out, common = np.array(columns, float), np.asarray(common, float)
    if common.any():
        out[:n] -= np.outer(out[:n] @ common, common) / (common @ common)
    return out


def score_one(known, trial, resid, prior):
    """Return signed delta chi^2, flux and share of information of a trial column next to known ones (pixels, n)."""
    normal = known.T @ known + np.diag(prior)
    both = np.column_stack([trial, resid])
    left = both.T @ both - (known.T @ both).T @ np.linalg.solve(normal, known.T @ both)
    alone = trial @ trial
    if not alone > 0:
        return np.zeros(3)
    information, s = left[0, 0], left[0, 1]
    return np.array([np.sign(s) * s**2 / information, s / information, information / alone])


def score_peaks(coef, px, py, basis_p, half, x, y, basis_s, prior, reach, most, local_sky, root, resid):
    out = np.zeros((len(px), 3))
    for p in range(len(px)):
        cols, rows = span(px[p], half, root.shape[1]), span(py[p], half, root.shape[0])
        if not (cols.size and rows.size):
            continue
        weight = np.asarray(root, float)[np.ix_(rows, cols)]
        chosen = nearest_members(x, y, px[p], py[p], reach, most)
        planes = [at_pixels(coef, basis_s[j], x[j], y[j], cols, rows) * weight for j in chosen]
        known = np.array(planes, float).reshape(3 * len(chosen), weight.size).T
        trial = (at_pixels(coef, basis_p[p], px[p], py[p], cols, rows)[0] * weight).ravel()
        left = (resid[np.ix_(rows, cols)] * weight).ravel()
        if local_sky:
            columns = np.vstack([known.T, trial, left])
            *known, trial, left = remove_component(columns, len(columns), weight.ravel())
            known = np.array(known).reshape(3 * len(chosen), weight.size).T
        out[p] = score_one(known, trial, left, np.outer(prior[chosen], [0, 1, 1]).ravel())
    return out


def score_companions(
    coef, which, x, y, basis, prior, half, offset_x, offset_y, least, floor, reach, most, root, resid
):
    """Return delta chi^2, flux, x and y of the best trial star around each star `which`, 0 where none helps."""
    out = np.zeros((len(which), 4))
    for p, i in enumerate(which):
        cols, rows = span(x[i], half, root.shape[1]), span(y[i], half, root.shape[0])
        if not (cols.size and rows.size):
            continue
        weight = np.asarray(root, float)[np.ix_(rows, cols)]
        left = (resid[np.ix_(rows, cols)] * weight).ravel()
        chosen = nearest_members(x, y, x[i], y[i], reach, most)
        planes = [at_pixels(coef, basis[j], x[j], y[j], cols, rows) * weight for j in chosen]
        known = np.array(planes, float).reshape(3 * len(chosen), weight.size).T
        both = np.outer(prior[chosen], [0, 1, 1]).ravel()
        for xt, yt in zip(x[i] + offset_x, y[i] + offset_y, strict=True):
            trial = (at_pixels(coef, basis[i], xt, yt, cols, rows)[0] * weight).ravel()
            gain, flux, share = score_one(known, trial, left, both)
            if share > least and gain > max(out[p, 0], floor[p]):
                out[p] = gain, flux, xt, yt
    return out
