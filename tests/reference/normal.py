"""Twins of `crowdfit._kernels.normal`: a dense design matrix, its products and a dense solution."""

import numpy as np

from tests.reference import nearest
from tests.reference.stamps import clip_window


def unpack(half, offset, stamps):
    """Return the stamps of each star as (3, size, size)."""
    sizes = 2 * np.asarray(half) + 1
    return [stamps[:, o : o + n * n].reshape(3, n, n) for n, o in zip(sizes, offset, strict=True)]


def place(x, y, half, offset, stamps, shape, margin):
    """Return all columns on a canvas that reaches `margin` pixels beyond the image, (n, 3, rows, cols)."""
    ny, nx = shape
    out = np.zeros((len(x), 3, ny + 2 * margin, nx + 2 * margin))
    for i, stamp in enumerate(unpack(half, offset, stamps)):
        r, c = nearest(y[i]) - half[i] + margin, nearest(x[i]) - half[i] + margin
        out[i, :, r : r + stamp.shape[1], c : c + stamp.shape[2]] = stamp
    return out


def whiten_stamps(x, y, half, offset, root_ivar, stamps):
    margin = 200
    root = np.pad(np.asarray(root_ivar, float), margin)
    out = np.zeros(stamps.shape)
    for i, (old, new) in enumerate(zip(unpack(half, offset, stamps), unpack(half, offset, out), strict=True)):
        r, c = nearest(y[i]) - half[i] + margin, nearest(x[i]) - half[i] + margin
        new[...] = old * root[r : r + old.shape[1], c : c + old.shape[2]]
    return out


def scale_row(row, factor):
    return np.asarray(row, float) * factor


def dot_rows(u, v):
    return float(np.asarray(u, float) @ np.asarray(v, float))


def design(x, y, half, offset, stamps, shape):
    """Return the design matrix (pixels, 3 n), star by star."""
    out = np.zeros((len(x), 3, *shape))
    for i, stamp in enumerate(unpack(half, offset, stamps)):
        rows, cols = clip_window(x[i], y[i], half[i], *shape)
        inside = np.ix_(range(3), rows - nearest(y[i]) + half[i], cols - nearest(x[i]) + half[i])
        out[i][np.ix_(range(3), rows, cols)] = stamp[inside]
    return out.reshape(3 * len(x), -1).T


def count_entries(x, y, half, ny, nx, n_terms):
    """Return where each column begins in a matrix stored by columns."""
    sizes = [
        np.prod([len(axis) for axis in clip_window(*star, ny, nx)]) for star in zip(x, y, half, strict=True)
    ]
    return np.concatenate([[0], np.cumsum(np.repeat(sizes, n_terms))])


def fill_design(x, y, half, offset, stamps, shape, n_terms):
    full = design(x, y, half, offset, stamps, shape).reshape(-1, len(x), 3)
    return full[:, :, :n_terms].reshape(-1, n_terms * len(x))


def project_residual(x, y, half, offset, stamps, resid):
    return (design(x, y, half, offset, stamps, resid.shape).T @ resid.ravel().astype(float)).reshape(-1, 3)


def overlaps(x, y, half):
    """Return which pairs of different stars have a pixel in common."""
    x, y = (np.array([nearest(v) for v in axis]) for axis in (x, y))
    gap = half[:, None] + half[None, :]
    near = (np.abs(x[:, None] - x) <= gap) & (np.abs(y[:, None] - y) <= gap)
    return near & ~np.eye(len(x), dtype=bool)


def link_pairs(x, y, half):
    """Return where each star's links begin, and the links."""
    near = overlaps(x, y, half)
    return np.concatenate([[0], np.cumsum(near.sum(axis=1))]), np.nonzero(near)[1]


def find_twins(first, links):
    star = np.repeat(np.arange(len(first) - 1), np.diff(first))
    where = {pair: k for k, pair in enumerate(zip(star.tolist(), links.tolist(), strict=True))}
    return [where[j, i] for i, j in where]


def overlap_block(u, v):
    return np.asarray(u, float) @ np.asarray(v, float).T


def pair_block(x, y, half, offset, stamps, i, j, shape):
    every = place(x, y, half, offset, stamps, shape, 200).reshape(len(x), 3, -1)
    return every[i] @ every[j].T


def fill_blocks(x, y, half, offset, stamps, shape):
    """Return the normal matrix as blocks, (n, n, 3, 3)."""
    every = place(x, y, half, offset, stamps, shape, 200).reshape(len(x), 3, -1)
    return np.einsum("ikp,jlp->ijkl", every, every, optimize=True)


def dense(own, first, links, cross):
    """Return the matrix (3 n, 3 n) that blocks and links stand for."""
    n = len(own)
    out = np.zeros((n, n, 3, 3))
    out[np.arange(n), np.arange(n)] = own.reshape(n, 3, 3)
    out[np.repeat(np.arange(n), np.diff(first)), links] = cross.reshape(-1, 3, 3)
    return out.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


def apply_normal(own, first, links, cross, v):
    return (dense(own, first, links, cross) @ v.ravel()).reshape(-1, 3)


def invert_blocks(own):
    """Return the inverses; of a block without full rank, that of its diagonal."""
    out = np.zeros((len(own), 3, 3))
    for block, inverse in zip(own.reshape(-1, 3, 3), out, strict=True):
        diagonal = np.diag(block)
        if np.linalg.matrix_rank(block / np.sqrt(np.outer(diagonal, diagonal) + 1e-300), tol=1e-6) == 3:
            inverse[...] = np.linalg.inv(block)
        else:
            inverse[...] = np.diag(np.where(diagonal > 0, 1 / np.where(diagonal > 0, diagonal, 1), 0))
    return out.reshape(-1, 9)


def apply_inverse(inverse, v):
    return np.einsum("npq,nq->np", inverse.reshape(-1, 3, 3), v)


def solve_pcg(own, first, links, cross, rhs):
    return np.linalg.solve(dense(own, first, links, cross), rhs.ravel()).reshape(-1, 3)
