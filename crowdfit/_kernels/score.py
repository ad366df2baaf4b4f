"""The score test of a trial star next to fitted ones.

With ``a`` the whitened column of the trial star, ``A`` those of its neighbours (flux and both shifts),
``r`` the whitened residual, ``N = A^T A`` plus the shift priors:

    s = a^T r - b^T N^-1 A^T r,   b = A^T a,   V = a^T a - b^T N^-1 b,   delta chi^2 = s^2 / V,   flux = s / V

is what the new star gains once its neighbours readjust (Rao 1948). On top of a known star V goes to 0.
"""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.neighbours import insert_nearest
from crowdfit._kernels.normal import dot_rows, scale_row
from crowdfit._kernels.stamps import add_window, clip_window, fill_window


@kernel
def nearest_members(x, y, x0, y0, reach, cell, start, members, chosen, dist):
    """List up to chosen.size stars within `reach` of (x0, y0), nearest first; returns how many.

    cell, start, members : the search grid of `link_pairs` (the last entry of `start` is the cells per row).
    """
    nx = start[-1]
    ny = (start.size - 2) // nx
    n = np.int64(0)
    c0, c1 = max(0, int((x0 - reach) // cell)), min(nx - 1, int((x0 + reach) // cell))
    for r in range(max(0, int((y0 - reach) // cell)), min(ny - 1, int((y0 + reach) // cell)) + 1):
        if c0 > c1:
            break
        for k in range(start[r * nx + c0], start[r * nx + c1 + 1]):
            j = members[k]
            d2 = (x[j] - x0) ** 2 + (y[j] - y0) ** 2
            if d2 <= reach * reach:
                n = insert_nearest(j, d2, n, chosen, dist)
    return n


@kernel
def factorize(matrix, n):
    """Cholesky factor of the leading n x n part, in place (lower); a pivot <= 0 fixes that unknown at 0."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                matrix[i, i] = np.sqrt(total) if total > 1e-9 * (abs(matrix[i, i]) + 1e-300) else 1e30
            else:
                matrix[i, j] = total / matrix[j, j]


@kernel
def forward_solve(factor, n, v):
    """Solve L u = v in place for the leading n entries."""
    for i in range(n):
        total = v[i]
        for k in range(i):
            total -= factor[i, k] * v[k]
        v[i] = total / factor[i, i]


@kernel
def backward_solve(factor, n, v):
    """Solve L^T u = v in place for the leading n entries."""
    for i in range(n - 1, -1, -1):
        total = v[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * v[k]
        v[i] = total / factor[i, i]


@kernel
def add_multiple(row, other, factor):
    """Add `factor` times another float32 row to a row in place."""
    f = np.float32(factor)
    for i in range(row.size):
        row[i] += f * other[i]


@kernel
def whiten_window(root, col0, row0, window, columns, at):
    """Multiply columns at..at+2 (flat windows) by the root inverse variance below the window."""
    rows, cols = window
    for r in range(rows):
        line = root[row0 + r, col0 : col0 + cols]
        for k in range(3):
            row = columns[at + k, r * cols : (r + 1) * cols]
            for i in range(cols):
                row[i] *= line[i]


@kernel
def remove_component(columns, n, common):
    """Make columns 0..n-1 orthogonal to `common`: the same as fitting a multiple of it in every test."""
    norm = dot_rows(common, common)
    if not norm > 0.0:
        return
    for k in range(n):
        add_multiple(columns[k], common, -dot_rows(columns[k], common) / norm)


@tile_kernel
def score_peaks(
    coef, px, py, basis_p, half, x, y, basis_s, prior, reach, most, local_sky, grid, root, resid, result
):
    """Fill result (n, 3) float64 with delta chi^2 (signed by the flux), flux, and V / a^T a of trial stars.

    px, py, basis_p : positions (n,) and basis functions (n, n_basis) of the trials; half : half width of
    the window (pix); x, y, basis_s : fitted stars; prior : (n_stars,) float64 added to both shift diagonals;
    reach : neighbours up to this distance (pix), at most `most`; local_sky : whether a constant under the
    window is free as well, which makes a star on a slope or in nebulosity prove its shape;
    grid : (cell, start, members) search grid; root : (ny, nx) float32, square root of the inverse variance
    incl. model error; resid : (ny, nx) float32.
    """
    cell, start, members = grid
    ny, nx = root.shape
    for p in prange(px.size):
        result[p, :] = 0.0
        row0, row1, col0, col1 = clip_window(px[p], py[p], half, ny, nx)
        rows, cols = row1 - row0, col1 - col0
        if cols < 1 or rows < 1:
            continue
        size = rows * cols
        chosen, dist = np.empty(most, np.int64), np.empty(most)
        m = nearest_members(x, y, px[p], py[p], reach, cell, start, members, chosen, dist)
        columns = np.empty((3 * m + 4, size), np.float32)
        for k in range(m + 1):
            # the trial star comes last; residual and constant below take the places of its shift columns
            at = 3 * k
            xs, ys, b = (
                (px[p], py[p], basis_p[p]) if k == m else (x[chosen[k]], y[chosen[k]], basis_s[chosen[k]])
            )
            fill_window(
                coef, b, xs, ys, col0, row0,
                columns[at].reshape((rows, cols)), columns[at + 1].reshape((rows, cols)),
                columns[at + 2].reshape((rows, cols)),
            )  # fmt: skip
            whiten_window(root, col0, row0, (rows, cols), columns, at)
        n = 3 * m
        for r in range(rows):
            for i in range(cols):
                columns[n + 1, r * cols + i] = resid[row0 + r, col0 + i] * root[row0 + r, col0 + i]
                columns[n + 2, r * cols + i] = root[row0 + r, col0 + i]
        if local_sky:
            remove_component(columns, n + 2, columns[n + 2])
        score_one(columns, n, chosen, prior, result[p])


@kernel
def score_one(columns, n, chosen, prior, result):
    """Score the trial column n against columns 0..n-1 and the whitened residual in column n + 1."""
    matrix, b, g = np.empty((n, n)), np.empty(n), np.empty(n)
    for i in range(n):
        for j in range(i + 1):
            matrix[i, j] = dot_rows(columns[i], columns[j])
        b[i] = dot_rows(columns[i], columns[n])
        g[i] = dot_rows(columns[i], columns[n + 1])
        if i % 3 > 0:
            matrix[i, i] += prior[chosen[i // 3]]
    alone = dot_rows(columns[n], columns[n])
    s = dot_rows(columns[n], columns[n + 1])
    factorize(matrix, n)
    forward_solve(matrix, n, b)
    forward_solve(matrix, n, g)
    left = alone
    for i in range(n):
        left -= b[i] * b[i]
        s -= b[i] * g[i]
    if alone > 0.0 and left > 0.0:
        result[0] = s * abs(s) / left
        result[1] = s / left
        result[2] = left / alone


@tile_kernel
def score_companions(
    coef, which, x, y, basis, prior, half, offset_x, offset_y, least, floor, reach, most, grid, root, resid, result
):  # fmt: skip
    """Fill result (n, 4) float64 with the best companion of each star `which`: (delta chi^2, flux, x, y).

    which : (n,) int64, the stars; x, y, basis, prior : all fitted stars, as in `score_peaks`; half : half width
    of the window around the star (pix); offset_x, offset_y : (k,) trial places relative to the star (pix);
    least : places with less than this share of their information are not tried; floor : (n,) float64, gains up
    to which are of no interest; the rest as in `score_peaks`.
    The neighbours' part is factorised once a star, and once the residual is free of what neighbours can explain,
    its product with the trial star and `least` bound the gain: most places cost one product.
    """
    cell, start, members = grid
    ny, nx = root.shape
    for p in prange(which.size):
        i = which[p]
        result[p, :] = 0.0
        row0, row1, col0, col1 = clip_window(x[i], y[i], half, ny, nx)
        rows, cols = row1 - row0, col1 - col0
        if cols < 1 or rows < 1:
            continue
        size = rows * cols
        chosen, dist = np.empty(most, np.int64), np.empty(most)
        m = nearest_members(x, y, x[i], y[i], reach, cell, start, members, chosen, dist)
        n = 3 * m
        columns = np.empty((n + 3, size), np.float32)
        for k in range(m):
            j = chosen[k]
            fill_window(
                coef, basis[j], x[j], y[j], col0, row0,
                columns[3 * k].reshape((rows, cols)), columns[3 * k + 1].reshape((rows, cols)),
                columns[3 * k + 2].reshape((rows, cols)),
            )  # fmt: skip
            whiten_window(root, col0, row0, (rows, cols), columns, 3 * k)
        for r in range(rows):
            for c in range(cols):
                weight = root[row0 + r, col0 + c]
                columns[n + 1, r * cols + c] = resid[row0 + r, col0 + c] * weight
                columns[n + 2, r * cols + c] = weight
        matrix, b, g = np.empty((n, n)), np.empty(n), np.empty(n)
        for u in range(n):
            for v in range(u + 1):
                matrix[u, v] = dot_rows(columns[u], columns[v])
            g[u] = dot_rows(columns[u], columns[n + 1])
            if u % 3 > 0:
                matrix[u, u] += prior[chosen[u // 3]]
        factorize(matrix, n)
        forward_solve(matrix, n, g)
        backward_solve(matrix, n, g)
        for u in range(n):
            add_multiple(columns[n + 1], columns[u], -g[u])
        first_pixel = np.int64(0)  # a bare 0 would be a literal, a type of its own to numba
        for t in range(offset_x.size):
            xt, yt = x[i] + offset_x[t], y[i] + offset_y[t]
            columns[n, :] = np.float32(0)
            trial = columns[n].reshape((rows, cols))
            # whole pixels off both ways, the star lies in its pixel as before
            add_window(coef, basis[i], xt - col0, yt - row0, 1.0, first_pixel, cols, first_pixel, rows, trial)
            scale_row(columns[n], columns[n + 2])
            alone = dot_rows(columns[n], columns[n])
            s = dot_rows(columns[n], columns[n + 1])
            if not s > 0.0 or s * s <= least * alone * max(result[p, 0], floor[p]):
                continue
            for u in range(n):
                b[u] = dot_rows(columns[u], columns[n])
            forward_solve(matrix, n, b)
            left = alone
            for u in range(n):
                left -= b[u] * b[u]
            if left > least * alone and s * s / left > max(result[p, 0], floor[p]):
                result[p, 0], result[p, 1], result[p, 2], result[p, 3] = s * s / left, s / left, xt, yt
