"""Normal equations of the PSF itself: every pixel of every star is one linear equation in the PSF's unknowns."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import inlined_kernel, kernel, tile_kernel
from crowdfit._kernels.stamps import add_window, clip_window, locate_taps


@kernel
def robust_weight(ivar, resid, own, total, trust, clip):
    """Return the weight of a pixel: 1 / (var + (e own)^2 + (n others)^2), less for outliers (Cauchy, scale `clip`).

    own, total : light of the star and of all stars; trust : (2,) fractional errors e of the star's own model
    and n of its neighbours'. A neighbour swallows part of a wing that it stands on, so that only the pixels
    between neighbours tell how high the wing is.
    """
    if ivar <= 0:
        return 0.0
    extra, others = trust[0] * own, trust[1] * (total - own)
    weight = 1.0 / (1.0 / ivar + extra * extra + others * others)
    return weight / (1.0 + resid * resid * weight / (clip * clip))


@inlined_kernel
def add_star_to_table(coefs, basis, x, y, flux, reach, s, trust, clip, image, matrix, vectors, sums):
    """Add the equations ``resid + flux Q(u) = flux sum_j beta_j(u) t_j + c`` of one star, pixels within `reach`.

    image : model of all stars, residual and inverse variance, each (ny, nx) float32; trust, clip : see
    `robust_weight`; coefs : tables of the present PSF and of Q, the part of it that is being replaced; basis :
    (n_basis,) float64, the weights of their planes at the star;
    matrix (g, g, 7, 7), vectors (2, g, g), sums (2,) float64: normal equations of the spline coefficients t on a
    grid of `s` knots per pixel, and of the constant c that all stars share: t with t, t with the right side and
    with c, c with the right side and with c.
    """
    model, resid, ivar = image
    ny, nx = resid.shape
    middle = matrix.shape[0] // 2
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    r0, r1, c0, c1 = clip_window(x, y, int(np.floor(reach)), ny, nx)
    if c0 >= c1 or r0 >= r1:
        return
    shape = (r1 - r0, c1 - c0)
    p, q = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    first_pixel = np.int64(0)  # a bare 0 would be a literal, a type of its own to numba
    add_window(coefs[0], basis, x - c0, y - r0, flux, first_pixel, c1 - c0, first_pixel, r1 - r0, p)
    add_window(coefs[1], basis, x - c0, y - r0, flux, first_pixel, c1 - c0, first_pixel, r1 - r0, q)
    px, sx, wx, dx = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4), np.empty(4)
    py, sy, wy, dy = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4), np.empty(4)
    locate_taps(x - xc, s, px, sx, wx, dx)
    locate_taps(y - yc, s, py, sy, wy, dy)
    base_x, base_y = sx[0] * s + px[0], sy[0] * s + py[0]
    for r in range(r0, r1):
        for c in range(c0, c1):
            d2 = (c - x) ** 2 + (r - y) ** 2
            if d2 > reach * reach:
                continue
            target = resid[r, c] + q[r - r0, c - c0]
            w = robust_weight(ivar[r, c], resid[r, c], p[r - r0, c - c0], model[r, c], trust, clip)
            if w == 0.0:
                continue
            row, col = middle + (r - yc) * s + base_y, middle + (c - xc) * s + base_x
            if row < 0 or col < 0 or row + 3 >= matrix.shape[0] or col + 3 >= matrix.shape[0]:
                continue
            scale = w * flux * flux
            sums[0] += w * target
            sums[1] += w
            for a in range(4):
                for b in range(4):
                    first = wy[a] * wx[b]
                    vectors[0, row + a, col + b] += w * flux * first * target
                    vectors[1, row + a, col + b] += w * flux * first
                    for e in range(4):
                        for f in range(4):
                            matrix[row + a, col + b, 3 + e - a, 3 + f - b] += scale * first * wy[e] * wx[f]


@tile_kernel
def accumulate_table(coefs, basis, x, y, flux, reach, s, trust, clip, image, part, matrices, vectors, sums):
    """Fill matrices (m, g, g, 7, 7), vectors (m, 2, g, g) and sums (m, 2), star i in part[i].

    basis : (n, n_basis) float64; reach : (n,) float64, how far out each star counts (pix); part : (n,) int64.
    Threads share nothing.
    """
    for p in prange(matrices.shape[0]):
        for i in range(x.size):
            if part[i] == p:
                add_star_to_table(
                    coefs, basis[i], x[i], y[i], flux[i], reach[i], s, trust, clip, image, matrices[p], vectors[p],
                    sums[p],
                )  # fmt: skip


@tile_kernel
def apply_stencils(matrices, coefs, out):
    """Fill out (m, g, g) with the products of matrices (m, g, g, 7, 7), as stencils, and coefs (m, g, g)."""
    m, g = coefs.shape[0], coefs.shape[1]
    for k in prange(m * g):
        p, r = k // g, k % g
        for c in range(g):
            total = 0.0
            for i in range(max(3 - r, 0), min(g + 3 - r, 7)):
                for j in range(max(3 - c, 0), min(g + 3 - c, 7)):
                    total += matrices[p, r, c, i, j] * coefs[p, r + i - 3, c + j - 3]
            out[p, r, c] = total


@inlined_kernel
def add_star_to_profile(coef, x, y, flux, reach, shape, knots, weights, trust, clip, image, matrix, vector):
    """Add the equations ``resid + flux P(u) = flux sum_k a_k phi_k(r(u))`` of one star, pixels within `reach`.

    image, trust, clip : as in `add_star_to_table`; shape : (3,) coefficients of the squared elliptical radius,
    r^2 = s0 u^2 + s1 u v + s2 v^2; knots : (m,) int64, first basis function at radius ``i / samples``;
    weights : (m, 4) its four values; the number of samples per pixel is weights[-1, 0]; matrix (n, n), vector (n,).
    A constant under the star, its own error of the sky, is eliminated: without that, the wings of a crowd of
    stars below the detection limit would be taken for the wings of the PSF.
    """
    model, resid, ivar = image
    ny, nx = resid.shape
    fine = weights[-1, 0]
    r0, r1, c0, c1 = clip_window(x, y, int(np.floor(reach)), ny, nx)
    if c0 >= c1 or r0 >= r1:
        return
    size = (r1 - r0, c1 - c0)
    p = np.zeros(size, np.float32)
    first_pixel = np.int64(0)  # as above
    add_window(coef, np.ones(1), x - c0, y - r0, flux, first_pixel, c1 - c0, first_pixel, r1 - r0, p)
    shared = np.zeros(vector.size)
    sum_weight, sum_target = 0.0, 0.0
    for r in range(r0, r1):
        v = r - y
        for c in range(c0, c1):
            u = c - x
            d2 = shape[0] * u * u + shape[1] * u * v + shape[2] * v * v
            at = int(np.sqrt(max(d2, 0.0)) * fine + 0.5)
            if d2 > reach * reach or at >= knots.size - 1:
                continue
            own = p[r - r0, c - c0]
            w = robust_weight(ivar[r, c], resid[r, c], own, model[r, c], trust, clip)
            if w == 0.0:
                continue
            target = resid[r, c] + own
            k = knots[at]
            sum_weight += w
            sum_target += w * target
            for a in range(4):
                wa = weights[at, a]
                shared[k + a] += w * flux * wa
                vector[k + a] += w * flux * wa * target
                for b in range(4):
                    matrix[k + a, k + b] += w * flux * flux * wa * weights[at, b]
    if sum_weight <= 0.0:
        return
    for a in range(vector.size):
        if shared[a] != 0.0:
            vector[a] -= shared[a] * sum_target / sum_weight
            for b in range(vector.size):
                matrix[a, b] -= shared[a] * shared[b] / sum_weight


@tile_kernel
def accumulate_profile(coef, x, y, flux, reach, shape, knots, weights, trust, clip, image, matrices, vectors):
    """Fill matrices (m, n, n) and vectors (m, n): star i, out to reach[i] pixels, goes to part i % m."""
    parts = matrices.shape[0]
    for part in prange(parts):
        for i in range(part, x.size, parts):
            add_star_to_profile(
                coef, x[i], y[i], flux[i], reach[i], shape, knots, weights, trust, clip, image,
                matrices[part], vectors[part],
            )  # fmt: skip
