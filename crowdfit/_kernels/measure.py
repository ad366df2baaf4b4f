"""Statistics of every star on the image cleaned of its neighbours (formulas: algorithm.md, section 16)."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.stamps import clip_window, fill_window

QF, RCHI2, FRACFLUX, FLUX_LBS, FLUX_LBS_ERR, FLUX_ISO, STEP_X_ISO, STEP_Y_ISO = range(8)
FWHM, SPREAD_MODEL, SPREAD_MODEL_ERR, SHARPNESS, N_GOOD, N_PIXELS, SHARE = range(8, 15)
N_STATS = 15


@kernel
def sum_shape(clean, ivar, resid, total, psf, share, out):
    """Fill qf, rchi2, fracflux, flux_lbs with error, and fwhm from flat windows of equal length.

    clean = resid + flux P; total = data - sky; share = E, the sum of P in the window. p = P / E.
    """
    sp = sgp = srp = scp = sdp = sw = swp = swpp = swpc = swc = spp = 0.0
    for i in range(psf.size):
        p, w = np.float64(psf[i]) / share, np.float64(ivar[i])
        c, d, r = np.float64(clean[i]), np.float64(total[i]), np.float64(resid[i])
        sp += p
        spp += p * p
        if w <= 0.0:
            continue
        sgp += p
        srp += r * r * w * p
        scp += c * p
        sdp += d * p
        sw += w
        swp += w * p
        swpp += w * p * p
        swpc += w * p * c
        swc += w * c
    out[QF] = sgp / sp
    out[FWHM] = 1.18 / np.sqrt(np.pi * spp) if spp > 0.0 else np.nan
    if sgp <= 0.0:
        return
    out[RCHI2] = srp / sgp
    out[FRACFLUX] = scp / sdp if sdp > 0.0 else np.nan
    det = sw * swpp - swp * swp
    if det > 1e-9 * sw * swpp:
        out[FLUX_LBS] = (sw * swpc - swp * swc) / det / share
        out[FLUX_LBS_ERR] = np.sqrt(sw / det) / share


@kernel
def fit_isolated(clean, ivar, psf, gx, gy, out):
    """Fill flux_iso and its steps: weighted least squares of the cleaned window on P, dP/dx, dP/dy."""
    a = b = c = d = e = f = u = v = w = 0.0
    for i in range(psf.size):
        t = np.float64(ivar[i])
        p, x, y, z = np.float64(psf[i]), np.float64(gx[i]), np.float64(gy[i]), np.float64(clean[i])
        a += t * p * p
        b += t * p * x
        c += t * p * y
        d += t * x * x
        e += t * x * y
        f += t * y * y
        u += t * p * z
        v += t * x * z
        w += t * y * z
    det = a * (d * f - e * e) - b * (b * f - e * c) + c * (b * e - d * c)
    if not det > 1e-9 * a * d * f:
        return
    flux = (u * (d * f - e * e) - b * (v * f - e * w) + c * (v * e - d * w)) / det
    shift_x = (a * (v * f - e * w) - u * (b * f - e * c) + c * (b * w - v * c)) / det
    shift_y = (a * (d * w - v * e) - b * (b * w - v * c) + u * (b * e - d * c)) / det
    out[FLUX_ISO] = flux
    if flux != 0.0:
        out[STEP_X_ISO], out[STEP_Y_ISO] = shift_x / flux, shift_y / flux


@kernel
def compare_disc(clean, ivar, psf, disc, out):
    """Fill spread_model and its error: the star against PSF and against PSF convolved with a small disc."""
    pc = gc = gg = pp = gp = 0.0
    for i in range(psf.size):
        w, p, g, c = np.float64(ivar[i]), np.float64(psf[i]), np.float64(disc[i]), np.float64(clean[i])
        pc += p * w * c
        gc += g * w * c
        gg += g * w * g
        pp += p * w * p
        gp += g * w * p
    if pc == 0.0 or pp <= 0.0:
        return
    out[SPREAD_MODEL] = gc / pc - gp / pp
    out[SPREAD_MODEL_ERR] = np.sqrt(max(0.0, pc * pc * gg + gc * gc * pp - 2.0 * gc * pc * gp)) / (pc * pc)


@kernel
def compare_core(clean, ivar, psf, col0, row0, x, y, inner, outer, flux, out):
    """Fill sharpness: contrast of core and ring, star over PSF, minus 1; windows (rows, cols).

    Contrast = mean within `inner` pixels of the star minus mean of the ring out to `outer`, usable pixels only.
    """
    core = ring = core_psf = ring_psf = 0.0
    n_core = n_ring = 0
    for r in range(psf.shape[0]):
        for c in range(psf.shape[1]):
            if ivar[r, c] <= 0:
                continue
            d2 = (col0 + c - x) ** 2 + (row0 + r - y) ** 2
            if d2 <= inner * inner:
                core += clean[r, c]
                core_psf += psf[r, c]
                n_core += 1
            elif d2 <= outer * outer:
                ring += clean[r, c]
                ring_psf += psf[r, c]
                n_ring += 1
    if n_core == 0 or n_ring == 0 or flux == 0.0:
        return
    expected = core_psf / n_core - ring_psf / n_ring
    if expected > 0.0:
        out[SHARPNESS] = (core / n_core - ring / n_ring) / (flux * expected) - 1.0


@kernel
def measure_one(coef, disc_coef, basis, x, y, flux, half, rings, resid, ivar, total, out):
    """Fill the statistics of one star (see `measure_stars`)."""
    ny, nx = resid.shape
    out[:] = np.nan
    r0, r1, c0, c1 = clip_window(x, y, half, ny, nx)
    out[N_PIXELS], out[N_GOOD] = max(c1 - c0, 0) * max(r1 - r0, 0), 0
    if c0 >= c1 or r0 >= r1:
        out[QF] = 0.0
        return
    shape = (r1 - r0, c1 - c0)
    psf, disc = np.empty(shape, np.float32), np.empty(shape, np.float32)
    gx, gy = np.empty(shape, np.float32), np.empty(shape, np.float32)
    fill_window(disc_coef, basis, x, y, c0, r0, disc, gx, gy)
    fill_window(coef, basis, x, y, c0, r0, psf, gx, gy)
    clean = np.empty(shape, np.float32)
    weight, light, left = ivar[r0:r1, c0:c1].copy(), total[r0:r1, c0:c1].copy(), resid[r0:r1, c0:c1].copy()
    share = 0.0
    for r in range(shape[0]):
        for c in range(shape[1]):
            share += psf[r, c]
            clean[r, c] = left[r, c] + np.float32(flux) * psf[r, c]
            out[N_GOOD] += 1 if weight[r, c] > 0 else 0
    out[SHARE] = share
    if not share > 0.0:
        return
    flat = shape[0] * shape[1]
    weight1, clean1, psf1 = weight.reshape(flat), clean.reshape(flat), psf.reshape(flat)
    sum_shape(clean1, weight1, left.reshape(flat), light.reshape(flat), psf1, share, out)
    fit_isolated(clean1, weight1, psf1, gx.reshape(flat), gy.reshape(flat), out)
    compare_disc(clean1, weight1, psf1, disc.reshape(flat), out)
    compare_core(clean, weight, psf, c0, r0, x, y, rings[0], rings[1], flux, out)


@tile_kernel
def measure_stars(coef, disc_coef, basis, x, y, flux, half, rings, resid, ivar, total, out):
    """Fill out (n, N_STATS) float64 with the statistics of all stars; NaN where not measurable.

    coef, disc_coef : PSF tables, the second convolved with the disc; half : half width of the measuring
    stamp (pix); rings : (2,) radii of `compare_core` (pix); resid, ivar, total : (ny, nx) float32, residual,
    inverse variance and data - sky.
    """
    for i in prange(x.size):
        measure_one(coef, disc_coef, basis[i], x[i], y[i], flux[i], half, rings, resid, ivar, total, out[i])
