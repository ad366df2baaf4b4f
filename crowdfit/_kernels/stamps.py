"""PSF stamps and their position derivatives from an oversampled cubic B-spline table.

The table is `coef` (n_basis, s, s, k, k) float32, ordered (basis, phase_y, phase_x, row, column): sample
``i * s + phase`` of the oversampled grid. At integer oversampling `s` all pixels of a stamp share one
fractional offset, so a stamp is 16 weights times 16 slabs with contiguous rows.
The table's centre sample has phase 0 and native index k // 2.
"""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel


@kernel
def spline_weights(t, w, d):
    """Fill the four cubic B-spline weights `w` and their derivatives `d` at fraction `t` in [0, 1).

    Formula: beta_3 and its derivative (Unser, Aldroubi & Eden 1993) at t+1, t, 1-t, 2-t.
    """
    q = 1.0 - t
    w[0] = q * q * q / 6.0
    w[1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
    w[2] = (4.0 - 6.0 * q * q + 3.0 * q * q * q) / 6.0
    w[3] = t * t * t / 6.0
    d[0] = -0.5 * q * q
    d[1] = -2.0 * t + 1.5 * t * t
    d[2] = 2.0 * q - 1.5 * q * q
    d[3] = 0.5 * t * t


@kernel
def locate_taps(frac, s, phase, shift, w, d):
    """Fill phase, whole-pixel shift, weight and derivative of the four taps of one axis.

    `frac` is the star's position minus that of its central pixel (-0.5..0.5); pixel ``c`` of the stamp
    sits at oversampled coordinate ``(c * s) - frac * s`` from the PSF centre. Derivatives are per native
    pixel and with respect to the *star's* position, hence the minus sign.
    """
    t = -frac * s
    base = int(np.floor(t))
    spline_weights(t - base, w, d)
    for j in range(4):
        tap = base + j - 1
        native = tap // s
        phase[j] = tap - native * s
        shift[j] = native
        d[j] *= -s


@kernel
def add_row(c0, c1, c2, c3, wx, dx, wy, dy, value, grad_x, grad_y):
    """Add one row tap of the spline to the value and derivative rows (all contiguous, same length)."""
    w0, w1, w2, w3 = np.float32(wx[0]), np.float32(wx[1]), np.float32(wx[2]), np.float32(wx[3])
    d0, d1, d2, d3 = np.float32(dx[0]), np.float32(dx[1]), np.float32(dx[2]), np.float32(dx[3])
    u = np.float32(wy)
    v = np.float32(dy)
    for i in range(value.size):
        a = w0 * c0[i] + w1 * c1[i] + w2 * c2[i] + w3 * c3[i]
        b = d0 * c0[i] + d1 * c1[i] + d2 * c2[i] + d3 * c3[i]
        value[i] += u * a
        grad_x[i] += u * b
        grad_y[i] += v * a


@kernel
def add_row_value(c0, c1, c2, c3, wx, wy, value):
    """Add one row tap of the spline to the value row only."""
    u = np.float32(wy)
    w0, w1, w2, w3 = (
        u * np.float32(wx[0]), u * np.float32(wx[1]), u * np.float32(wx[2]), u * np.float32(wx[3])
    )  # fmt: skip
    for i in range(value.size):
        value[i] += w0 * c0[i] + w1 * c1[i] + w2 * c2[i] + w3 * c3[i]


@kernel
def clip_window(x, y, half, ny, nx):
    """Return the part of a star's window that lies on the image: first row, end row, first column, end column.

    half : half width of the window (pix). An end is not part of it, and off the image not beyond the first.
    """
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    return max(yc - half, 0), min(yc + half + 1, ny), max(xc - half, 0), min(xc + half + 1, nx)


@kernel
def count_used(basis):
    """Return how many weights are not 0, and the number of the last of them (0 if there is none)."""
    used, last = 0, 0
    for b in range(basis.size):
        if basis[b] != 0.0:
            used += 1
            last = b
    return used, last


@kernel
def add_scaled(factor, row, out):
    """Add `factor` times a row to another (contiguous, same length)."""
    for i in range(out.size):
        out[i] += factor * row[i]


@kernel
def mix_planes(coef, basis, phase_y, phase_x, row, col, out):
    """Fill out (s, s, rows, cols) float32 with ``sum_b basis_b coef_b`` from (row, col) of the table on.

    Planes are mixed once, and not again for each tap of the spline. Phases that are in neither `phase_y` nor `phase_x`
    (4,) int64 are left as they are.
    """
    s, rows, cols = out.shape[1], out.shape[2], out.shape[3]
    for py in range(s):
        for px in range(s):
            if not (np.any(phase_y == py) and np.any(phase_x == px)):
                continue
            for r in range(rows):
                line = out[py, px, r]
                line[:] = np.float32(0)
                for b in range(coef.shape[0]):
                    if basis[b] != 0.0:
                        add_scaled(np.float32(basis[b]), coef[b, py, px, row + r, col : col + cols], line)


@kernel
def fill_window(coef, basis, x, y, col0, row0, value, grad_x, grad_y):
    """Fill PSF value and derivatives on a window of the image.

    coef : (n_basis, s, s, k, k) float32; basis : (n_basis,) float64, the weights of the planes at the star (a
    plane of weight 0 is not looked at);
    x, y : star position (pix); col0, row0 : image column and row of the window's first pixel;
    value, grad_x, grad_y : (rows, cols) float32, filled with P, dP/dx, dP/dy per native pixel.
    The window must lie within the table's support (k // 2 - 2 pixels of the star's central pixel).
    """
    s = coef.shape[1]
    centre = coef.shape[3] // 2
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    phase_x, shift_x = np.empty(4, np.int64), np.empty(4, np.int64)
    phase_y, shift_y = np.empty(4, np.int64), np.empty(4, np.int64)
    wx, dx, wy, dy = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    locate_taps(x - xc, s, phase_x, shift_x, wx, dx)
    locate_taps(y - yc, s, phase_y, shift_y, wy, dy)
    rows, cols = value.shape
    i0 = centre + col0 - xc
    j0 = centre + row0 - yc
    used, last = count_used(basis)
    table, weight = coef[last], basis[last]
    if used > 1:
        top, left = j0 + shift_y[0], i0 + shift_x[0]
        table = np.empty((s, s, rows + shift_y[3] - shift_y[0], cols + shift_x[3] - shift_x[0]), np.float32)
        mix_planes(coef, basis, phase_y, phase_x, top, left, table)
        j0, i0, weight = j0 - top, i0 - left, 1.0
    a0, a1, a2, a3 = i0 + shift_x[0], i0 + shift_x[1], i0 + shift_x[2], i0 + shift_x[3]
    for r in range(rows):
        v, gx, gy = value[r], grad_x[r], grad_y[r]
        v[:] = np.float32(0)
        gx[:] = np.float32(0)
        gy[:] = np.float32(0)
        for t in range(4):
            plane = table[phase_y[t]]
            row = j0 + r + shift_y[t]
            add_row(
                plane[phase_x[0], row, a0 : a0 + cols],
                plane[phase_x[1], row, a1 : a1 + cols],
                plane[phase_x[2], row, a2 : a2 + cols],
                plane[phase_x[3], row, a3 : a3 + cols],
                wx, dx, weight * wy[t], weight * dy[t], v, gx, gy,
            )  # fmt: skip


@kernel
def add_window(coef, basis, x, y, flux, c0, c1, r0, r1, image):
    """Add `flux` times the PSF of a star at (x, y) to columns c0..c1-1 and rows r0..r1-1 of `image` (ny, nx) float32.

    The window must lie on the image and within the table's support, as in `fill_window`.
    """
    s = coef.shape[1]
    centre = coef.shape[3] // 2
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    phase_x, shift_x = np.empty(4, np.int64), np.empty(4, np.int64)
    phase_y, shift_y = np.empty(4, np.int64), np.empty(4, np.int64)
    wx, dx, wy, dy = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    locate_taps(x - xc, s, phase_x, shift_x, wx, dx)
    locate_taps(y - yc, s, phase_y, shift_y, wy, dy)
    cols = c1 - c0
    if cols <= 0 or r1 <= r0:
        return
    i0 = centre + c0 - xc
    j0 = centre + r0 - yc
    used, last = count_used(basis)
    table, weight = coef[last], basis[last]
    if used > 1:
        top, left = j0 + shift_y[0], i0 + shift_x[0]
        table = np.empty(
            (s, s, r1 - r0 + shift_y[3] - shift_y[0], cols + shift_x[3] - shift_x[0]), np.float32
        )
        mix_planes(coef, basis, phase_y, phase_x, top, left, table)
        j0, i0, weight = j0 - top, i0 - left, 1.0
    a0, a1, a2, a3 = i0 + shift_x[0], i0 + shift_x[1], i0 + shift_x[2], i0 + shift_x[3]
    for r in range(r0, r1):
        # a row of the whole image is contiguous; a row of a two-dimensional cut of it would not be known to be
        out = image[r, c0:c1]
        for t in range(4):
            plane = table[phase_y[t]]
            row = j0 + r - r0 + shift_y[t]
            add_row_value(
                plane[phase_x[0], row, a0 : a0 + cols],
                plane[phase_x[1], row, a1 : a1 + cols],
                plane[phase_x[2], row, a2 : a2 + cols],
                plane[phase_x[3], row, a3 : a3 + cols],
                wx, flux * weight * wy[t], out,
            )  # fmt: skip


@tile_kernel
def fill_stamps(coef, basis, x, y, half, offset, stamps):
    """Fill the stamps of all stars: P, dP/dx, dP/dy.

    basis : (n, n_basis) float64; x, y : (n,) float64; half : (n,) int64, stamp size 2 half + 1;
    offset : (n,) int64, start of each stamp in `stamps` (3, total) float32, filled row by row.
    The stamp is centred on the pixel nearest to the star.
    """
    for i in prange(x.size):
        fill_one_stamp(coef, basis[i], x[i], y[i], half[i], offset[i], stamps)


@kernel
def fill_one_stamp(coef, basis, x, y, half, offset, stamps):
    """Fill the three planes of one stamp (see `fill_stamps`)."""
    size = 2 * half + 1
    end = offset + size * size
    col0 = int(np.floor(x + 0.5)) - half
    row0 = int(np.floor(y + 0.5)) - half
    fill_window(
        coef, basis, x, y, col0, row0,
        stamps[0, offset:end].reshape((size, size)),
        stamps[1, offset:end].reshape((size, size)),
        stamps[2, offset:end].reshape((size, size)),
    )  # fmt: skip


@tile_kernel
def blend_stamps(coef, basis, x, y, half, offset, share, stamps):
    """Replace a share of stamps (3, total) float32 in place by those of another PSF, pixel by pixel.

    coef, basis, x, y, half, offset : as in `fill_stamps`, of the other PSF; share : (ny, nx) float32, 0 to 1.
    """
    ny, nx = share.shape
    for i in prange(x.size):
        size = 2 * half[i] + 1
        row0, col0 = int(np.floor(y[i] + 0.5)) - half[i], int(np.floor(x[i] + 0.5)) - half[i]
        r0, r1, c0, c1 = max(row0, 0), min(row0 + size, ny), max(col0, 0), min(col0 + size, nx)
        r0, r1, c0, c1 = bounds_above_zero(share, r0, r1, c0, c1)
        if r0 >= r1:
            continue
        other = np.empty((3, r1 - r0, c1 - c0), np.float32)
        fill_window(coef, basis[i], x[i], y[i], c0, r0, other[0], other[1], other[2])
        for r in range(r0, r1):
            at = offset[i] + (r - row0) * size - col0
            for k in range(3):
                for c in range(c0, c1):
                    stamps[k, at + c] += share[r, c] * (other[k, r - r0, c - c0] - stamps[k, at + c])


@kernel
def bounds_above_zero(image, r0, r1, c0, c1):
    """Return first row, end row, first column and end column of the values above 0 in rows r0..r1-1, columns c0..c1-1.

    With none of them, as in a window off the image, the end row is the first.
    """
    top, bottom, left, right = r0, r0, c1, c0
    for r in range(r0, r1):
        for c in range(c0, c1):
            if image[r, c] > 0.0:
                if bottom == r0:
                    top = r
                bottom = r + 1
                left, right = min(left, c), max(right, c + 1)
    return top, bottom, left, right


@tile_kernel
def mask_stamps(coef, basis, x, y, half, offset, good, box, kernel, stamps):
    """Take out of filtered stamps (3, total) float32 what the filter carried there from masked pixels.

    Stars with more than a tenth of the pixels within `box` of their central one masked; pixels off the image
    are masked ones. good : (ny, nx) bool; kernel : (m, m) float64, odd, symmetric, the filter;
    coef, basis, x, y, half, offset : as in `fill_stamps`, of the PSF before the filter.
    """
    ny, nx = good.shape
    for i in prange(x.size):
        r0, r1, c0, c1 = clip_window(x[i], y[i], box, ny, nx)
        usable, whole = 0, (2 * box + 1) ** 2
        for r in range(r0, r1):
            for c in range(c0, c1):
                usable += good[r, c]
        if 10 * (whole - usable) > whole:
            mask_one_stamp(coef, basis[i], x[i], y[i], half[i], offset[i], good, kernel, stamps)


@kernel
def mask_one_stamp(coef, basis, x, y, half, offset, good, kernel, stamps):
    """Take the light on masked pixels of one stamp, after the filter, out of it (see `mask_stamps`)."""
    ny, nx = good.shape
    size, middle = 2 * half + 1, kernel.shape[0] // 2
    col0, row0 = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
    light = np.empty((3, size), np.float32)
    for row in range(row0, row0 + size):
        on_image = 0 <= row < ny
        c0, c1 = col0 + size, col0
        for col in range(col0, col0 + size):
            if not (on_image and 0 <= col < nx and good[row, col]):
                c0, c1 = min(c0, col), col + 1
        if c0 >= c1:
            continue
        n = c1 - c0
        fill_window(
            coef, basis, x, y, c0, row,
            light[0, :n].reshape((1, n)), light[1, :n].reshape((1, n)), light[2, :n].reshape((1, n)),
        )  # fmt: skip
        for col in range(c0, c1):
            if on_image and 0 <= col < nx and good[row, col]:
                continue
            a, b = max(col - middle, col0), min(col + middle + 1, col0 + size)
            for r in range(max(row - middle, row0), min(row + middle + 1, row0 + size)):
                line = kernel[r - row + middle, a - col + middle : b - col + middle]
                at = offset + (r - row0) * size + a - col0
                for k in range(3):
                    take_away(light[k, col - c0], line, stamps[k, at : at + b - a])


@kernel
def take_away(factor, line, out):
    """Subtract `factor` times a row from another in place."""
    for i in range(out.size):
        out[i] -= factor * np.float32(line[i])
