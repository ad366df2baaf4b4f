"""Detect stars with sep and measure them in apertures.

    python sep_fit.py TASK.json FIELD.fits OUT.npy

OUT.npy is an array (4, n): x, y, flux, error.
"""

import json
import sys

import numpy as np
import sep
from astropy.io import fits


def main() -> None:
    """Detect with the settings of the task."""
    with open(sys.argv[1]) as file:
        task = json.load(file)
    with fits.open(sys.argv[2]) as hdus:
        data = hdus["SCI"].data.astype(np.float32)
        error = hdus["ERR"].data.astype(np.float32)
        bad = ((hdus["DQ"].data & 1) > 0) | ~np.isfinite(data)
    data[bad] = 0
    data -= sep.Background(data, mask=bad, bw=task["back_size"], bh=task["back_size"]).back()
    found = sep.extract(
        data,
        task["threshold"],
        err=error,
        mask=bad,
        minarea=task["minarea"],
        filter_kernel=task["filter"],
        deblend_nthresh=task["deblend_nthresh"],
        deblend_cont=task["deblend_cont"],
    )
    radius, total = task["aperture_fwhm"] * task["fwhm"], task["total_fwhm"] * task["fwhm"]
    flux, flux_err, _ = sep.sum_circle(data, found["x"], found["y"], radius, err=error, mask=bad)
    clean = np.flatnonzero((found["flag"] == 0) & (flux > 0))
    stars = clean[np.argsort(-flux[clean])][: task["correction_stars"]]
    whole, _, _ = sep.sum_circle(data, found["x"][stars], found["y"][stars], total, mask=bad)
    correction = np.median(whole / flux[stars]) if len(stars) else 1.0
    np.save(sys.argv[3], np.stack([found["x"], found["y"], correction * flux, correction * flux_err]))


if __name__ == "__main__":
    main()
