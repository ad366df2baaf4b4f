"""Twins of `crowdfit._kernels.filters`."""

import numpy as np


def add_scaled_row(factor, row, out):
    return out + factor * np.asarray(row, float)


def correlate(image, psf):
    half = psf.shape[0] // 2
    ny, nx = image.shape
    wide = np.pad(np.asarray(image, float), half)
    total = np.zeros(image.shape)
    for (dr, dc), weight in np.ndenumerate(psf):
        total += weight * wide[dr : dr + ny, dc : dc + nx]
    return total


def correlate_row(image, psf, r):
    return correlate(image, psf)[r]


def add_blended_row(first, step, share, row, out):
    return out + (first + step * share) * np.asarray(row, float)


def correlate_field(image, psfs, cols, share_x, low, share_y):
    """Return the image correlated with each node's filter, mixed bilinearly at every pixel."""
    maps = np.array([[correlate(image, psf) for psf in row] for row in psfs])
    col = np.arange(image.shape[1])
    left = np.searchsorted(cols[1:], col, side="right")
    rows = (1 - share_y)[:, None, None] * np.moveaxis(maps, 2, 0)[np.arange(len(low)), low].swapaxes(1, 2)
    rows = rows + share_y[:, None, None] * np.moveaxis(maps, 2, 0)[np.arange(len(low)), low + 1].swapaxes(
        1, 2
    )
    return (1 - share_x) * rows[:, col, left] + share_x * rows[:, col, left + 1]


def correlate_field_row(image, psfs, cols, share_x, low, share_y, r):
    ny = image.shape[0]
    return correlate_field(image, psfs, cols, share_x, np.full(ny, low), np.full(ny, share_y))[r]


def find_peaks(image, usable, threshold):
    """Return rows and columns of the peaks; of equal pixels that touch, the first in reading order."""
    ny, nx = image.shape
    wide = np.pad(np.asarray(image, float), 1, constant_values=-np.inf)
    around = [wide[1 + dr : 1 + dr + ny, 1 + dc : 1 + dc + nx] for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
    before, after = np.max(around[:4], axis=0), np.max(around[5:], axis=0)
    return np.nonzero((image > before) & (image >= after) & (image > threshold) & usable)


def refine_peaks(image, rows, cols):
    """Return (x, y) of one Newton step on the quadratic through each 3 x 3 box."""
    out = np.array([cols, rows], float)
    for k, (r, c) in enumerate(zip(rows, cols, strict=True)):
        if not (0 < r < image.shape[0] - 1 and 0 < c < image.shape[1] - 1):
            continue
        box = np.asarray(image[r - 1 : r + 2, c - 1 : c + 2], float)
        slope_y, slope_x = (g[1, 1] for g in np.gradient(box))
        cross = (box[2, 2] + box[0, 0] - box[0, 2] - box[2, 0]) / 4
        hessian = np.array([[np.diff(box[1], 2)[0], cross], [cross, np.diff(box[:, 1], 2)[0]]])
        if np.linalg.eigvalsh(hessian).max() < 0:
            out[:, k] += np.clip(np.linalg.solve(hessian, [-slope_x, -slope_y]), -0.5, 0.5)
    return out


def fill_share(brightness, ratio, least):
    """Return the share of the unfiltered residual that gives large scales the weight for C over the local noise."""
    weights = 1 / np.sqrt(1 + ratio / (1 + np.asarray(brightness, float)))
    share = (weights - 1 / np.sqrt(1 + ratio)) / (1 - 1 / np.sqrt(1 + ratio))
    return np.where(share > least, share, 0)
