"""The PSF-matched filter with per-pixel inverse variance, and peaks of an image."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel


@kernel
def add_scaled_row(factor, row, out):
    """Add `factor` times a float32 row to a float64 row."""
    for i in range(out.size):
        out[i] += factor * np.float64(row[i])


@kernel
def correlate_row(image, psf, r, out):
    """Fill one row r of `correlate`."""
    ny, nx = image.shape
    half = psf.shape[0] // 2
    acc = np.zeros(nx)
    for dr in range(max(-half, -r), min(half, ny - 1 - r) + 1):
        for dc in range(max(-half, 1 - nx), min(half, nx - 1) + 1):
            lo, hi = max(0, -dc), min(nx, nx - dc)
            add_scaled_row(psf[dr + half, dc + half], image[r + dr, lo + dc : hi + dc], acc[lo:hi])
    for c in range(nx):
        out[c] = np.float32(acc[c])


@tile_kernel
def correlate(image, psf, out):
    """Fill out (ny, nx) float32 with ``sum_u psf(u) image(x + u)``; pixels off the image count as 0.

    image : (ny, nx) float32; psf : (m, m) float64, m odd.
    """
    for r in prange(image.shape[0]):
        # the index of a parallel loop may be unsigned, where -r wraps around
        correlate_row(image, psf, np.int64(r), out[r])


@kernel
def add_blended_row(first, step, share, row, out):
    """Add ``first + step share`` times a float32 row to a float64 row; share : float64, of the same length."""
    for i in range(out.size):
        out[i] += (first + step * share[i]) * np.float64(row[i])


@kernel
def correlate_field_row(image, psfs, cols, share_x, low, share_y, r, out):
    """Fill one row r of `correlate_field`, which lies between rows `low` and ``low + 1`` of the nodes."""
    ny, nx = image.shape
    half = psfs.shape[2] // 2
    acc = np.zeros(nx)
    for dr in range(max(-half, -r), min(half, ny - 1 - r) + 1):
        for dc in range(max(-half, 1 - nx), min(half, nx - 1) + 1):
            lower, upper = psfs[low, :, dr + half, dc + half], psfs[low + 1, :, dr + half, dc + half]
            for g in range(cols.size - 1):
                lo, hi = max(0, -dc, cols[g]), min(nx, nx - dc, cols[g + 1])
                if lo < hi:
                    first = lower[g] + share_y * (upper[g] - lower[g])
                    last = lower[g + 1] + share_y * (upper[g + 1] - lower[g + 1])
                    add_blended_row(
                        first, last - first, share_x[lo:hi], image[r + dr, lo + dc : hi + dc], acc[lo:hi]
                    )
    for c in range(nx):
        out[c] = np.float32(acc[c])


@tile_kernel
def correlate_field(image, psfs, cols, share_x, low, share_y, out):
    """Fill out (ny, nx) float32 with ``sum_u psf_x(u) image(x + u)``, where psf_x is bilinear between nodes.

    image : (ny, nx) float32; psfs : (gy, gx, m, m) float64, m odd, the filters at the nodes; cols : (gx,) int64,
    first column between node g and the next, and nx at the end; share_x : (nx,) float64, from 0 at the node on the
    left to 1 at that on the right; low : (ny,) int64, the node below a row; share_y : (ny,) float64.
    """
    for r in prange(image.shape[0]):
        correlate_field_row(image, psfs, cols, share_x, low[r], share_y[r], np.int64(r), out[r])


@kernel
def find_peaks(image, usable, threshold, rows, cols):
    """List pixels above `threshold` that are the largest of their 3 x 3 box, in reading order.

    image : (ny, nx) float32; usable : (ny, nx) bool, where a peak may lie; rows, cols : (limit,) int64, filled.
    Ties go to the first pixel in reading order. Returns the number found, which may exceed `limit`.
    """
    ny, nx = image.shape
    n = 0
    for r in range(ny):
        for c in range(nx):
            v = image[r, c]
            if not (v > threshold and usable[r, c]):
                continue
            best = True
            for dr in range(-1, 2):
                for dc in range(-1, 2):
                    rr, cc = r + dr, c + dc
                    if rr < 0 or cc < 0 or rr >= ny or cc >= nx or (dr == 0 and dc == 0):
                        continue
                    w = image[rr, cc]
                    if w > v or (w == v and (dr < 0 or (dr == 0 and dc < 0))):
                        best = False
            if best:
                if n < rows.size:
                    rows[n], cols[n] = r, c
                n += 1
    return n


@kernel
def refine_peaks(image, rows, cols, x, y):
    """Fill x, y (n,) float64 with the tops of the quadratic through each peak's 3 x 3 box.

    The method of Vakili & Hogg (2016): gradient and Hessian by central differences, one Newton step,
    at most half a pixel per axis; at the image edge the pixel centre.
    """
    ny, nx = image.shape
    for i in range(rows.size):
        r, c = rows[i], cols[i]
        x[i], y[i] = c, r
        if r == 0 or c == 0 or r == ny - 1 or c == nx - 1:
            continue
        gx = 0.5 * (image[r, c + 1] - image[r, c - 1])
        gy = 0.5 * (image[r + 1, c] - image[r - 1, c])
        hxx = image[r, c + 1] + image[r, c - 1] - 2.0 * image[r, c]
        hyy = image[r + 1, c] + image[r - 1, c] - 2.0 * image[r, c]
        hxy = 0.25 * (image[r + 1, c + 1] + image[r - 1, c - 1] - image[r + 1, c - 1] - image[r - 1, c + 1])
        det = hxx * hyy - hxy * hxy
        if not (det > 0.0 and hxx < 0.0):
            continue
        x[i] = c + min(0.5, max(-0.5, (hxy * gy - hyy * gx) / det))
        y[i] = r + min(0.5, max(-0.5, (hxy * gx - hxx * gy) / det))


@tile_kernel
def fill_share(brightness, ratio, least, share):
    """Fill share (ny, nx) float32 as `crowdfit.whitening.unfiltered_share` says; 0 where it is not above `least`.

    brightness : (ny, nx) float32; ratio : of the filter, above 0.
    """
    lowest = 1.0 / np.sqrt(1.0 + ratio)
    for r in prange(share.shape[0]):
        for c in range(share.shape[1]):
            wanted = 1.0 / np.sqrt(1.0 + ratio / (1.0 + np.float64(brightness[r, c])))
            value = (wanted - lowest) / (1.0 - lowest)
            share[r, c] = np.float32(value) if value > least else np.float32(0)
