"""Fit a field with crowdsource; runs in the environment of crowdsource.

    python crowdsource_fit.py TASK.json FIELD.fits OUT.fits

OUT.fits is the table of crowdsource, unchanged: its x is the row.
"""

import json
import sys

import crowdsource.psf as psfmod
import numpy as np
from astropy.io import fits
from crowdsource import crowdsource_base


def main() -> None:
    """Fit with the settings of the task."""
    with open(sys.argv[1]) as file:
        task = json.load(file)
    with fits.open(sys.argv[2]) as hdus:
        image = hdus["SCI"].data.astype("f4")
        error = hdus["ERR"].data.astype("f4")
        dq = hdus["DQ"].data.astype("i8")
    usable = (dq == 0) & np.isfinite(image)
    weight = np.where(usable, 1 / error, 0).astype("f4")
    # saturated pixels keep their values, from which it guesses fluxes; the rest of the masked may hold anything
    image[((dq & 1) > 0) | ~np.isfinite(image)] = np.median(image[usable])
    stamp = psfmod.moffat_psf(task["fwhm"], beta=task["beta"], stampsz=task["psf_size"], deriv=False)
    found, _, _, _ = crowdsource_base.fit_im(
        image,
        psfmod.SimplePSF(stamp),
        weight=weight,
        dq=dq,
        verbose=True,
        ntilex=task["tiles"][0],
        ntiley=task["tiles"][1],
        **{
            key: task[key]
            for key in ("refit_psf", "psfderiv", "threshold", "miniter", "maxiter", "maxstars", "fewstars")
        },
    )
    fits.writeto(sys.argv[3], found)


if __name__ == "__main__":
    main()
