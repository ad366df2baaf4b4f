"""Twins of `crowdfit._kernels.measure`: the formulas of algorithm.md, section 16, on whole windows.

Windows are dictionaries of float64 arrays (rows, cols): `psf`, `gx`, `gy`, `disc`, `clean`, `resid`, `total`,
`ivar`, and the offsets `u`, `v` of the pixels from the star. NaN is what cannot be measured.
"""

import numpy as np

from tests.reference import span
from tests.reference.stamps import at_pixels


def sum_shape(w):
    """Return qf, rchi2, fracflux, flux_lbs, its error, and fwhm."""
    share = w["psf"].sum()
    p, weight = w["psf"] / share, w["ivar"]
    good = weight > 0
    qf = p[good].sum()
    fwhm = 2.36 / (2 * np.sqrt(np.pi)) / np.sqrt(np.sum(p**2))
    if not qf > 0:
        return np.array([qf, *[np.nan] * 4, fwhm])
    rchi2 = np.sum(w["resid"] ** 2 * weight * p) / qf
    light = np.sum((w["total"] * p)[good])
    fracflux = np.sum((w["clean"] * p)[good]) / light if light > 0 else np.nan
    # flux_lbs: weighted least squares on (p, 1)
    columns = np.stack([p[good], np.ones(good.sum())])
    normal = columns * weight[good] @ columns.T
    if np.count_nonzero(good) < 2:
        return np.array([qf, rchi2, fracflux, np.nan, np.nan, fwhm])
    flux = np.linalg.solve(normal, columns * weight[good] @ w["clean"][good])[0]
    return np.array([qf, rchi2, fracflux, flux / share, np.sqrt(np.linalg.inv(normal)[0, 0]) / share, fwhm])


def fit_isolated(w):
    """Return flux and steps of the weighted fit of the cleaned window on the PSF and its gradients."""
    columns = np.stack([w["psf"].ravel(), w["gx"].ravel(), w["gy"].ravel()])
    normal = columns * w["ivar"].ravel() @ columns.T
    if np.count_nonzero(w["ivar"]) < 3:
        return np.full(3, np.nan)
    flux, shift_x, shift_y = np.linalg.solve(normal, columns * w["ivar"].ravel() @ w["clean"].ravel())
    return np.array([flux, shift_x / flux, shift_y / flux])


def compare_disc(w):
    """Return spread_model (Desai et al. 2012) and its error."""

    def dot(a, b):
        return np.sum(w[a] * w["ivar"] * w[b])

    pc, gc = dot("psf", "clean"), dot("disc", "clean")
    if pc == 0:
        return np.full(2, np.nan)
    spread = gc / pc - dot("disc", "psf") / dot("psf", "psf")
    square = pc**2 * dot("disc", "disc") + gc**2 * dot("psf", "psf") - 2 * gc * pc * dot("disc", "psf")
    return np.array([spread, np.sqrt(max(square, 0)) / pc**2])


def compare_core(w, inner, outer, flux):
    """Return how much the contrast of core and ring exceeds that of the PSF."""
    radius, good = np.hypot(w["u"], w["v"]), w["ivar"] > 0
    core, ring = good & (radius <= inner), good & (radius > inner) & (radius <= outer)
    if not (core.any() and ring.any() and flux):
        return np.nan
    seen, expected = (w[k][core].mean() - w[k][ring].mean() for k in ("clean", "psf"))
    return seen / (flux * expected) - 1 if expected > 0 else np.nan


def measure_one(coef, disc_coef, basis, x, y, flux, half, rings, resid, ivar, total):
    """Return the statistics of one star in the order of the kernel."""
    ny, nx = resid.shape
    cols, rows = span(x, half, nx), span(y, half, ny)
    out = np.full(15, np.nan)
    out[12:14] = 0, rows.size * cols.size
    if not (cols.size and rows.size):
        out[0] = 0
        return out
    cut = np.ix_(rows, cols)
    psf, gx, gy = at_pixels(coef, basis, x, y, cols, rows)
    v, u = np.meshgrid(rows - y, cols - x, indexing="ij")
    window = {"resid": resid[cut], "ivar": ivar[cut], "total": total[cut]}
    window = {name: np.asarray(plane, float) for name, plane in window.items()}
    window |= {"psf": psf, "gx": gx, "gy": gy, "disc": at_pixels(disc_coef, basis, x, y, cols, rows)[0]}
    window |= {"clean": window["resid"] + flux * psf, "u": u, "v": v}
    out[12], out[14] = np.count_nonzero(window["ivar"] > 0), psf.sum()
    out[[0, 1, 2, 3, 4, 8]] = sum_shape(window)
    out[5:8], out[9:11] = fit_isolated(window), compare_disc(window)
    out[11] = compare_core(window, *rings, flux)
    return out


def measure_stars(coef, disc_coef, basis, x, y, flux, half, rings, resid, ivar, total):
    stars = zip(basis, x, y, flux, strict=True)
    return np.array([measure_one(coef, disc_coef, *star, half, rings, resid, ivar, total) for star in stars])
