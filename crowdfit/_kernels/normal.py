"""Normal equations of all stars, assembled from overlapping pairs of whitened stamps, and their solution.

Unknowns of a star are (flux, flux * step_x, flux * step_y); its columns are sqrt(ivar) times
(P, dP/dx, dP/dy), so ``N_ij = sum over pixels of column_i * column_j`` is a 3 x 3 block per pair.
Only rows of overlapping pixels are visited: cost = pairs x overlap.
"""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.neighbours import find_link
from crowdfit._kernels.stamps import clip_window


@tile_kernel
def whiten_stamps(x, y, half, offset, root_ivar, stamps):
    """Multiply stamps (3, total) float32 in place by `root_ivar` (ny, nx) float32; 0 outside the image."""
    ny, nx = root_ivar.shape
    for i in prange(x.size):
        size = 2 * half[i] + 1
        col0 = int(np.floor(x[i] + 0.5)) - half[i]
        row0 = int(np.floor(y[i] + 0.5)) - half[i]
        a, b = max(0, -col0), min(size, nx - col0)
        for r in range(size):
            at = offset[i] + r * size
            for k in range(3):
                row = stamps[k, at : at + size]
                if row0 + r < 0 or row0 + r >= ny or a >= b:
                    row[:] = np.float32(0)
                    continue
                row[:a] = np.float32(0)
                row[b:] = np.float32(0)
                scale_row(row[a:b], root_ivar[row0 + r, col0 + a : col0 + b])


@kernel
def count_entries(x, y, half, ny, nx, n_terms, indptr):
    """Fill indptr (n_terms n + 1,) int64: where each column of the design matrix begins."""
    indptr[0] = 0
    for i in range(x.size):
        r0, r1, c0, c1 = clip_window(x[i], y[i], half[i], ny, nx)
        entries = max(r1 - r0, 0) * max(c1 - c0, 0)
        for k in range(n_terms):
            indptr[n_terms * i + k + 1] = indptr[n_terms * i + k] + entries


@tile_kernel
def fill_design(x, y, half, offset, stamps, shape, n_terms, indptr, indices, values):
    """Fill the design matrix by columns, star by star: pixel numbers (int32) and whitened stamps (float32).

    shape : (ny, nx); indptr from `count_entries`; indices, values : (indptr[-1],), filled. Pixels are numbered
    row by row, so the entries of a column are in order.
    """
    ny, nx = shape
    for i in prange(x.size):
        r0, r1, c0, c1 = clip_window(x[i], y[i], half[i], ny, nx)
        size = 2 * half[i] + 1
        col0, row0 = int(np.floor(x[i] + 0.5)) - half[i], int(np.floor(y[i] + 0.5)) - half[i]
        for k in range(n_terms):
            at = indptr[n_terms * i + k]
            for r in range(r0, r1):
                line = offset[i] + (r - row0) * size - col0
                for c in range(c0, c1):
                    indices[at] = r * nx + c
                    values[at] = stamps[k, line + c]
                    at += 1


@kernel
def scale_row(row, factor):
    """Multiply a row in place."""
    for i in range(row.size):
        row[i] *= factor[i]


@tile_kernel
def project_residual(x, y, half, offset, stamps, resid, rhs):
    """Fill rhs (n, 3) float64 with the columns' dot products with the whitened residual (ny, nx) float32."""
    ny, nx = resid.shape
    for i in prange(x.size):
        size = 2 * half[i] + 1
        col0 = int(np.floor(x[i] + 0.5)) - half[i]
        row0 = int(np.floor(y[i] + 0.5)) - half[i]
        a, b = max(0, -col0), min(size, nx - col0)
        rhs[i, :] = 0.0
        if a >= b:
            continue
        for r in range(max(0, -row0), min(size, ny - row0)):
            at = offset[i] + r * size
            line = resid[row0 + r, col0 + a : col0 + b]
            for k in range(3):
                rhs[i, k] += dot_rows(stamps[k, at + a : at + b], line)


@kernel
def dot_rows(u, v):
    """Return the dot product of two float32 rows in float64."""
    total = 0.0
    for i in range(u.size):
        total += np.float64(u[i]) * np.float64(v[i])
    return total


@tile_kernel
def link_pairs(x, y, half, cell, start, members, first, links):
    """List for every star the others whose stamps overlap its own, in order of number.

    cell : side of the search grid (pix), start (cells + 1,) and members (n,) : stars by grid cell;
    first : (n + 1,) int64; links : (total,) int32, filled from first[i] on for star i. With links of length 0
    the number of star i's links is put into first[i + 1] instead; their running sum is what the second call needs.
    As in `build_grid`, stars off the grid belong to the cell at its border that is nearest.
    """
    nx = start[-1]
    ny = (start.size - 2) // nx
    widest = 0
    for i in range(x.size):
        widest = max(widest, half[i])
    for i in prange(x.size):
        reach = (half[i] + widest + 1) // cell + 1
        ci = min(max(int(np.floor(x[i])) // cell, 0), nx - 1)
        ri = min(max(int(np.floor(y[i])) // cell, 0), ny - 1)
        xi, yi = int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5))
        count = 0
        for r in range(max(0, ri - reach), min(ny, ri + reach + 1)):
            for k in range(start[r * nx + max(0, ci - reach)], start[r * nx + min(nx - 1, ci + reach) + 1]):
                j = members[k]
                gap = half[i] + half[j]
                if (
                    j == i
                    or abs(int(np.floor(x[j] + 0.5)) - xi) > gap
                    or abs(int(np.floor(y[j] + 0.5)) - yi) > gap
                ):
                    continue
                if links.size > 0:
                    links[first[i] + count] = j
                count += 1
        if links.size > 0:
            links[first[i] : first[i] + count].sort()
        else:
            first[i + 1] = count


@tile_kernel
def find_twins(first, links, twins):
    """Fill twins (total,) int64: the place of (j, i) for every link (i, j); links are sorted per star."""
    for i in prange(first.size - 1):
        for k in range(first[i], first[i + 1]):
            twins[k] = find_link(first, links, np.int64(links[k]), np.int64(i))


@kernel
def overlap_block(u0, u1, u2, v0, v1, v2, acc):
    """Add the nine dot products of rows (u0, u1, u2) with rows (v0, v1, v2) to acc (9,) float64."""
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
    for i in range(u0.size):
        a, b, c = np.float64(u0[i]), np.float64(u1[i]), np.float64(u2[i])
        p, q, r = np.float64(v0[i]), np.float64(v1[i]), np.float64(v2[i])
        s00 += a * p
        s01 += a * q
        s02 += a * r
        s10 += b * p
        s11 += b * q
        s12 += b * r
        s20 += c * p
        s21 += c * q
        s22 += c * r
    acc[0] += s00
    acc[1] += s01
    acc[2] += s02
    acc[3] += s10
    acc[4] += s11
    acc[5] += s12
    acc[6] += s20
    acc[7] += s21
    acc[8] += s22


@kernel
def pair_block(xi, yi, hi, oi, xj, yj, hj, oj, stamps, acc):
    """Fill acc (9,) with the 3 x 3 block of two stars: pixel centres (x, y), half sizes h, offsets o."""
    acc[:] = 0.0
    ni, nj = 2 * hi + 1, 2 * hj + 1
    c0, c1 = max(xi - hi, xj - hj), min(xi + hi, xj + hj) + 1
    r0, r1 = max(yi - hi, yj - hj), min(yi + hi, yj + hj) + 1
    for r in range(r0, r1):
        a = oi + (r - yi + hi) * ni + c0 - xi + hi
        b = oj + (r - yj + hj) * nj + c0 - xj + hj
        m = c1 - c0
        overlap_block(
            stamps[0, a : a + m], stamps[1, a : a + m], stamps[2, a : a + m],
            stamps[0, b : b + m], stamps[1, b : b + m], stamps[2, b : b + m], acc,
        )  # fmt: skip


@tile_kernel
def fill_blocks(chosen, x, y, half, offset, stamps, first, links, twins, own, cross):
    """Fill the blocks of the normal matrix that belong to the stars numbered `chosen` (m,) int64.

    own : (n, 9) float64, a star with itself; cross : (total, 9) float32, block (i, j) at the place of
    link (i, j), row by row; each pair is computed once, for the higher of its numbers, and written to both places.
    Of the others only the stamps of stars linked to a higher number among the chosen are looked at.
    """
    for m in prange(chosen.size):
        i = chosen[m]
        acc = np.empty(9)
        xi, yi = int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5))
        pair_block(xi, yi, half[i], offset[i], xi, yi, half[i], offset[i], stamps, acc)
        own[i] = acc
        for k in range(first[i], first[i + 1]):
            j = links[k]
            if j > i:
                continue
            xj, yj = int(np.floor(x[j] + 0.5)), int(np.floor(y[j] + 0.5))
            pair_block(xj, yj, half[j], offset[j], xi, yi, half[i], offset[i], stamps, acc)
            t = twins[k]
            for p in range(3):
                for q in range(3):
                    cross[t, 3 * p + q] = np.float32(acc[3 * p + q])
                    cross[k, 3 * q + p] = np.float32(acc[3 * p + q])


@tile_kernel
def apply_normal(own, first, links, cross, v, out):
    """Fill out (n, 3) with the normal matrix times v (n, 3), float64."""
    for i in prange(v.shape[0]):
        s0 = own[i, 0] * v[i, 0] + own[i, 1] * v[i, 1] + own[i, 2] * v[i, 2]
        s1 = own[i, 3] * v[i, 0] + own[i, 4] * v[i, 1] + own[i, 5] * v[i, 2]
        s2 = own[i, 6] * v[i, 0] + own[i, 7] * v[i, 1] + own[i, 8] * v[i, 2]
        for k in range(first[i], first[i + 1]):
            j = links[k]
            a, b, c = v[j, 0], v[j, 1], v[j, 2]
            s0 += cross[k, 0] * a + cross[k, 1] * b + cross[k, 2] * c
            s1 += cross[k, 3] * a + cross[k, 4] * b + cross[k, 5] * c
            s2 += cross[k, 6] * a + cross[k, 7] * b + cross[k, 8] * c
        out[i, 0], out[i, 1], out[i, 2] = s0, s1, s2


@kernel
def invert_blocks(own, inverse):
    """Fill inverse (n, 9) with the inverses of symmetric 3 x 3 blocks; a singular block gives its diagonal."""
    for i in range(own.shape[0]):
        a, b, c = own[i, 0], own[i, 1], own[i, 2]
        e, f, g = own[i, 4], own[i, 5], own[i, 8]
        c00, c01, c02 = e * g - f * f, c * f - b * g, b * f - c * e
        det = a * c00 + b * c01 + c * c02
        inverse[i] = 0.0
        if not det > 1e-12 * a * e * g:
            for k in range(3):
                if own[i, 4 * k] > 0:
                    inverse[i, 4 * k] = 1.0 / own[i, 4 * k]
            continue
        c11, c12, c22 = a * g - c * c, b * c - a * f, a * e - b * b
        inverse[i, 0], inverse[i, 1], inverse[i, 2] = c00 / det, c01 / det, c02 / det
        inverse[i, 3], inverse[i, 4], inverse[i, 5] = c01 / det, c11 / det, c12 / det
        inverse[i, 6], inverse[i, 7], inverse[i, 8] = c02 / det, c12 / det, c22 / det


@kernel
def apply_inverse(inverse, v, out):
    """Fill out (n, 3) with the 3 x 3 blocks `inverse` (n, 9) times v (n, 3)."""
    for i in range(v.shape[0]):
        for p in range(3):
            out[i, p] = (
                inverse[i, 3 * p] * v[i, 0]
                + inverse[i, 3 * p + 1] * v[i, 1]
                + inverse[i, 3 * p + 2] * v[i, 2]
            )


@kernel
def solve_pcg(own, inverse, first, links, cross, rhs, tol, max_iter, solution):
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952; block-Jacobi preconditioner).

    rhs, solution : (n, 3) float64; `solution` holds the start value and is overwritten.
    Stops when no step ``M^-1 r`` exceeds `tol` in units of the star's own error, ``|step_k| sqrt(N_kk)``.
    Returns the number of iterations, negative if the limit `max_iter` was reached.
    """
    n = rhs.shape[0]
    z, work = np.empty((n, 3)), np.empty((n, 3))
    apply_normal(own, first, links, cross, solution, work)
    resid = rhs - work
    apply_inverse(inverse, resid, z)
    p = z.copy()
    rz = np.sum(resid * z)
    for it in range(max_iter):
        worst = 0.0
        for i in range(n):
            for k in range(3):
                worst = max(worst, z[i, k] * z[i, k] * own[i, 4 * k])
        if worst <= tol * tol:
            return it
        apply_normal(own, first, links, cross, p, work)
        curve = np.sum(p * work)
        if not curve > 0.0:
            return -it - 1
        alpha = rz / curve
        for i in range(n):
            for k in range(3):
                solution[i, k] += alpha * p[i, k]
                resid[i, k] -= alpha * work[i, k]
        apply_inverse(inverse, resid, z)
        rz_new = np.sum(resid * z)
        beta = rz_new / rz
        rz = rz_new
        for i in range(n):
            for k in range(3):
                p[i, k] = z[i, k] + beta * p[i, k]
    return -max_iter
