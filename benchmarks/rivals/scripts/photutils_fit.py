"""Fit a field with photutils; runs in the environment of photutils.

    python photutils_fit.py TASK.json FIELD.fits OUT.fits

TASK.json holds the settings and what a user has measured: `mode`, `fwhm`, ...; OUT.fits is the table of
photutils, unchanged.
"""

import json
import sys
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Table
from photutils.background import Background2D, SExtractorBackground
from photutils.detection import DAOStarFinder
from photutils.psf import (
    EPSFBuilder,
    IterativePSFPhotometry,
    PSFPhotometry,
    SourceGrouper,
    extract_stars,
)
from scipy.spatial import cKDTree


def odd(pixels: float) -> int:
    """Return the nearest odd number, at least 3."""
    return max(2 * round((pixels - 1) / 2) + 1, 3)


def build_psf(data: Any, mask: Any, noise: float, task: dict[str, Any]) -> Any:
    """Return the effective PSF from the brightest stars that no brighter star is near and no bad pixel touches."""
    fwhm = task["fwhm"]
    half = odd(task["psf_size_fwhm"] * fwhm) // 2
    finder = DAOStarFinder(
        threshold=task["psf_star_sigma"] * noise, fwhm=fwhm, min_separation=task["min_separation"]
    )
    found = finder(data, mask=mask)
    x, y = np.array(found["x_centroid"]), np.array(found["y_centroid"])
    flux = np.array(found["flux"])
    ny, nx = data.shape
    inside = (x > half + 1) & (x < nx - half - 2) & (y > half + 1) & (y < ny - half - 2)
    core = round(1.5 * fwhm)
    keep = []
    tree = cKDTree(np.column_stack([x, y]))
    for k in np.argsort(-flux):
        if not inside[k]:
            continue
        col, row = round(x[k]), round(y[k])
        if mask[row - core : row + core + 1, col - core : col + core + 1].any():
            continue
        near = [n for n in tree.query_ball_point([x[k], y[k]], task["psf_isolation_fwhm"] * fwhm) if n != k]
        if all(flux[n] < task["psf_neighbour_flux"] * flux[k] for n in near):
            keep.append(k)
        if len(keep) == task["psf_stars"]:
            break
    image = NDData(data, mask=mask)
    stars = extract_stars(image, Table({"x": x[keep], "y": y[keep]}), size=2 * half + 1)
    print(f"PSF from {len(stars)} stars")
    builder = EPSFBuilder(
        oversampling=task["oversampling"], maxiters=task["psf_iterations"], progress_bar=False
    )
    return builder(stars)[0]


def main() -> None:
    """Run the mode that the task names."""
    with open(sys.argv[1]) as file:
        task = json.load(file)
    warnings.simplefilter("ignore")
    with fits.open(sys.argv[2]) as hdus:
        data = hdus["SCI"].data.astype(float)
        error = hdus["ERR"].data.astype(float)
        mask = (hdus["DQ"].data != 0) | ~np.isfinite(data)
    data[mask] = 0.0
    background = Background2D(
        data, task["background_box"], mask=mask, exclude_percentile=90, bkg_estimator=SExtractorBackground()
    )
    data = data - background.background
    data[mask] = 0.0
    fwhm, noise = task["fwhm"], task["noise"]
    psf = build_psf(data, mask, noise, task)
    common = {
        "psf_model": psf,
        "fit_shape": odd(task["fit_fwhm"] * fwhm),
        "finder": DAOStarFinder(
            threshold=task["threshold"] * noise, fwhm=fwhm, min_separation=task["min_separation"]
        ),
        "aperture_radius": task["aperture_fwhm"] * fwhm,
        "xy_bounds": task["bounds_fwhm"] * fwhm,
    }
    if task["mode"] == "grouped":
        fit = PSFPhotometry(grouper=SourceGrouper(task["group_fwhm"] * fwhm), **common)
    else:
        fit = IterativePSFPhotometry(mode="new", maxiters=task["passes"], **common)
    table = fit(data, error=error, mask=mask)
    table.meta.clear()
    table.write(sys.argv[3], overwrite=True)


if __name__ == "__main__":
    main()
