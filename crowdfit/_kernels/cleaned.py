"""Cleaned stamps of many stars side by side on one canvas, and sums that need every pixel around a star.

A canvas is a large image of square cells, star k in cell ``(k // per_row, k % per_row)``, its nearest pixel in the
middle. What a library measures on one image it measures so on every star as if it were alone.
"""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.stamps import add_window

NARROWEST = 0.3
"""Least rms of an ellipse along an axis (pix): the rms of a pixel itself."""
SETTLED = 1e-4
"""Relative change of the moments below which an ellipse stands."""


@kernel
def fill_cell(coef, basis, x, y, flux, half, radius, level, frame, col0, row0, mid, planes):
    """Fill one cell, whose first pixel is (col0, row0), of the five planes (see `fill_cells`)."""
    resid, ivar, model = frame
    light, own, noise, usable, others = planes
    ny, nx = resid.shape
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    reach = min(mid, radius)
    middle_col, middle_row = col0 + mid, row0 + mid
    add_window(
        coef, basis, x - xc + middle_col, y - yc + middle_row, 1.0, middle_col - reach, middle_col + reach + 1,
        middle_row - reach, middle_row + reach + 1, own,
    )  # fmt: skip
    for r in range(2 * mid + 1):
        row = yc + r - mid
        for c in range(2 * mid + 1):
            col = xc + c - mid
            at_row, at_col = row0 + r, col0 + c
            rendered = abs(r - mid) <= half and abs(c - mid) <= half
            star = np.float32(flux) * own[at_row, at_col] if rendered else np.float32(0)
            light[at_row, at_col] = star
            if row < 0 or col < 0 or row >= ny or col >= nx:
                continue
            others[at_row, at_col] = model[row, col] - star
            if ivar[row, col] > 0:
                light[at_row, at_col] += resid[row, col] - np.float32(level)
                noise[at_row, at_col] = np.float32(1) / ivar[row, col]
                usable[at_row, at_col] = np.float32(1)


@tile_kernel
def fill_cells(coef, basis, x, y, flux, half, radius, level, frame, per_row, mid, planes):
    """Fill the cells of n stars: the image cleaned of all other stars, and what goes with it.

    basis : (n, n_basis) float64; x, y, flux : (n,) float64; half : (n,) int64, half width within which each star is
    part of the model; radius : half width of the PSF (pix); level : (n,) float64, local sky to take off.
    frame : resid, ivar, model, (ny, nx) float32. per_row : cells in a row; mid : half width of a cell (pix).
    planes : five canvases float32, zero where they begin: light = resid - level + flux P on usable pixels and
    flux P elsewhere; own = P; noise = variance and usable = 1 on usable pixels; others = model - flux P on the image.
    """
    side = 2 * mid + 1
    for k in prange(x.size):
        number = np.int64(k)
        fill_cell(
            coef, basis[k], x[k], y[k], flux[k], half[k], radius, level[k], frame, (number % per_row) * side,
            (number // per_row) * side, mid, planes,
        )  # fmt: skip


@kernel
def clip_median(values, clip, iterations, out):
    """Fill out (3,): median of sorted values within `clip` standard deviations of it, its error, and their number.

    Values farther off are left out, and median and deviation taken again, until none is or `iterations` times. The
    error is that of the median of normal numbers, ``sqrt(pi / 2n)`` deviations.
    """
    first, end = 0, values.size
    for turn in range(iterations + 1):
        n = end - first
        mean = 0.0
        for i in range(first, end):
            mean += values[i]
        mean /= n
        square = 0.0
        for i in range(first, end):
            square += (values[i] - mean) ** 2
        scatter = np.sqrt(square / n)
        median = 0.5 * (values[first + (n - 1) // 2] + values[first + n // 2])
        out[0], out[1], out[2] = median, scatter * np.sqrt(0.5 * np.pi / n), n
        if turn == iterations:
            return
        while values[first] < median - clip * scatter:
            first += 1
        while values[end - 1] > median + clip * scatter:
            end -= 1
        if end - first == n:
            return


@tile_kernel
def measure_rings(x, y, inner, outer, clip, iterations, least, resid, ivar, out):
    """Fill out (n, 3) float64: clipped median, its error and number of pixels in a ring around each position.

    The ring holds the usable pixels whose centres lie from `inner` to `outer` pixels away; with fewer than `least`
    of them, clipped or not, median and error are NaN. resid, ivar : (ny, nx) float32; see `clip_median` for the others.
    """
    ny, nx = resid.shape
    for k in prange(x.size):
        r0, r1 = max(int(np.floor(y[k] - outer)), 0), min(int(np.ceil(y[k] + outer)) + 1, ny)
        c0, c1 = max(int(np.floor(x[k] - outer)), 0), min(int(np.ceil(x[k] + outer)) + 1, nx)
        values = np.empty(max(r1 - r0, 0) * max(c1 - c0, 0))
        n = 0
        for r in range(r0, r1):
            for c in range(c0, c1):
                d2 = (c - x[k]) ** 2 + (r - y[k]) ** 2
                if ivar[r, c] > 0 and d2 >= inner * inner and d2 <= outer * outer:
                    values[n] = resid[r, c]
                    n += 1
        out[k, 0], out[k, 1], out[k, 2] = np.nan, np.nan, n
        if n >= max(least, 1):
            clip_median(np.sort(values[:n]), clip, iterations, out[k])
            out[k, 2] = n


@tile_kernel
def collect_bits(x, y, radii, dq, out):
    """Fill out (n, m) uint32 with the OR of dq (ny, nx) uint32 over all pixels that each circle touches.

    x, y : (n,) float64; radii : (m,) float64 (pix).
    """
    ny, nx = dq.shape
    for k in prange(x.size):
        for j in range(radii.size):
            bits, radius = np.uint32(0), radii[j]
            # half a pixel more: the pixel whose edge is touched
            r0, r1 = (
                max(int(np.ceil(y[k] - radius - 0.5)), 0),
                min(int(np.floor(y[k] + radius + 0.5)) + 1, ny),
            )
            c0, c1 = (
                max(int(np.ceil(x[k] - radius - 0.5)), 0),
                min(int(np.floor(x[k] + radius + 0.5)) + 1, nx),
            )
            for r in range(r0, r1):
                dy = max(abs(r - y[k]) - 0.5, 0.0)
                for c in range(c0, c1):
                    dx = max(abs(c - x[k]) - 0.5, 0.0)
                    if dx * dx + dy * dy < radius * radius:
                        bits |= dq[r, c]
            out[k, j] = bits


@kernel
def weighted_shape(image, x, y, shape, reach, moments):
    """Fill moments (3,): xx, yy, xy of the light around (x, y) under a Gaussian of the moments `shape`.

    Pixels within `reach` along both axes and four sigma; NaN where there is no light or no Gaussian.
    """
    moments[:] = np.nan
    det = shape[0] * shape[1] - shape[2] * shape[2]
    if not (det > 0.0 and shape[0] > 0.0):
        return
    ixx, iyy, ixy = shape[1] / det, shape[0] / det, -shape[2] / det
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    # the ellipse at four sigma is as wide as four times the rms along each axis
    wide, high = int(4.0 * np.sqrt(shape[0])) + 1, int(4.0 * np.sqrt(shape[1])) + 1
    total = xx = yy = xy = 0.0
    for r in range(yc - min(reach, high), yc + min(reach, high) + 1):
        v = r - y
        for c in range(xc - min(reach, wide), xc + min(reach, wide) + 1):
            u = c - x
            d2 = ixx * u * u + iyy * v * v + 2.0 * ixy * u * v
            if d2 > 16.0:
                continue
            w = np.exp(-0.5 * d2) * image[r, c]
            total += w
            xx += w * u * u
            yy += w * v * v
            xy += w * u * v
    if total > 0.0:
        moments[0], moments[1], moments[2] = xx / total, yy / total, xy / total


@tile_kernel
def fit_ellipses(image, x, y, sigma, reach, iterations, out):
    """Fill out (n, 3) float64: adaptive second moments xx, yy, xy (pix^2) of the light around each position.

    The moments of the elliptical Gaussian M that is twice the moments of the light weighted with it, as is so where
    the light itself is a Gaussian (Bernstein & Jarvis 2002). Starts from a round one of `sigma` (pix).
    image : (rows, cols) float32, holding all pixels within `reach` of each position; x, y : (n,) float64. NaN where
    there is no light, or the ellipse becomes narrower than a pixel or wider than half of `reach`.
    """
    for k in prange(x.size):
        shape, moments = np.empty(3), np.empty(3)
        shape[0] = shape[1] = sigma * sigma
        shape[2] = 0.0
        out[k, :] = np.nan
        for _ in range(iterations):
            weighted_shape(image, x[k], y[k], shape, reach, moments)
            change = 0.0
            for j in range(3):
                change = max(change, abs(2.0 * moments[j] - shape[j]))
                shape[j] = 2.0 * moments[j]
            root = np.hypot(0.5 * (shape[0] - shape[1]), shape[2])
            mean = 0.5 * (shape[0] + shape[1])
            if not (mean - root > NARROWEST * NARROWEST and mean + root < 0.25 * reach * reach):
                break
            if change < SETTLED * mean:
                out[k, 0], out[k, 1], out[k, 2] = shape[0], shape[1], shape[2]
                break
