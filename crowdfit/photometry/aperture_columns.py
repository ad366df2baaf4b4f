"""The columns of the apertures as data: name, unit, type, UCD1+ and meaning, for `crowdfit.catalog`.

`<r>` in a name stands for a radius of the configuration with its unit, 2.5 pix being `2p5pix`; `<p>` for a percentage.
"""

from typing import Final

IMAGE: Final = "image"

APERTURE_ROWS: Final = (
    (
        "aper_flux_<r>",
        IMAGE,
        "f8",
        "phot.flux",
        "sum in a circle on the image cleaned of all other stars, less the local sky; not corrected to all light",
    ),
    (
        "aper_flux_err_<r>",
        IMAGE,
        "f8",
        "stat.error;phot.flux",
        "1-sigma error of aper_flux: pixels, photons of all stars, and local sky",
    ),
    (
        "aper_mag_<r>",
        "mag",
        "f8",
        "phot.mag",
        "instrumental magnitude, -2.5 log10(aper_flux); NaN where it is <= 0",
    ),
    (
        "aper_corr_<r>",
        "",
        "f8",
        "arith.factor;instr.det.psf",
        "factor to all light: 1 over the share of the PSF at the star inside the circle",
    ),
    (
        "aper_good_<r>",
        "",
        "f8",
        "meta.code.qual;arith.ratio",
        "share of the circle on usable pixels; the star's own model stands on the rest",
    ),
    (
        "aper_contam_<r>",
        "",
        "f8",
        "phot.flux;arith.ratio",
        "contamination before cleaning: light of all other stars in the circle over the star's own, by the models",
    ),
    (
        "aper_left_<r>",
        "",
        "f8",
        "phot.flux;arith.ratio",
        "contamination after cleaning: what aper_flux has beyond the star's model, over that model",
    ),
    (
        "aper_dq_<r>",
        "",
        "u4",
        "meta.code.qual",
        "data-quality bits of all pixels that the circle touches, combined with OR",
    ),
    (
        "aper_sky",
        IMAGE,
        "f8",
        "instr.skyLevel",
        "local sky per pixel beyond `sky`: clipped median of data - sky - all stars in the ring; NaN when it failed",
    ),
    ("aper_sky_err", IMAGE, "f8", "stat.error;instr.skyLevel", "1-sigma error of aper_sky"),
    ("aper_sky_n", "", "i4", "meta.number", "usable pixels of the ring, before clipping"),
    (
        "a",
        "pix",
        "f8",
        "phys.angSize.smajAxis",
        "rms of the cleaned star along its major axis, by adaptive moments; NaN where too faint, narrow or wide",
    ),
    ("b", "pix", "f8", "phys.angSize.sminAxis", "the same along its minor axis"),
    ("theta", "deg", "f8", "pos.posAng", "angle of the major axis from the x axis towards y"),
    ("ell_flux_<r>", IMAGE, "f8", "phot.flux", "sum in an ellipse of so many a and b, less the local sky"),
    ("ell_flux_err_<r>", IMAGE, "f8", "stat.error;phot.flux", "1-sigma error of ell_flux"),
    (
        "ell_corr_<r>",
        "",
        "f8",
        "arith.factor;instr.det.psf",
        "factor to all light of a star: 1 over the share of the PSF inside that ellipse",
    ),
    ("kron_flux", IMAGE, "f8", "phot.flux", "sum in the Kron aperture, less the local sky"),
    ("kron_flux_err", IMAGE, "f8", "stat.error;phot.flux", "1-sigma error of kron_flux"),
    (
        "kron_corr",
        "",
        "f8",
        "arith.factor;instr.det.psf",
        "factor to all light of a star: 1 over the share of the PSF inside the Kron aperture",
    ),
    (
        "kron_radius",
        "",
        "f8",
        "phys.angSize",
        "first moment radius in units of a and b, before factor and minimum; of the PSF where too faint; 0: none",
    ),
    ("kron_a", "pix", "f8", "phys.angSize.smajAxis", "semi-major axis of the Kron aperture"),
    ("kron_b", "pix", "f8", "phys.angSize.sminAxis", "semi-minor axis of the Kron aperture"),
    (
        "r<p>",
        "pix",
        "f8",
        "phys.angSize",
        "radius of the circle with that percentage of kron_flux; NaN where kron_flux is not positive",
    ),
    (
        "dao_sharpness",
        "",
        "f8",
        "src.morph.param",
        "DAOFIND: central pixel less the mean around it, over the height of the fitted Gaussian",
    ),
    (
        "roundness1",
        "",
        "f8",
        "src.morph.param",
        "DAOFIND: two-fold over four-fold symmetry; 0 for a round star",
    ),
    (
        "roundness2",
        "",
        "f8",
        "src.morph.param",
        "DAOFIND: heights of the Gaussians in x and in y, difference over mean",
    ),
    (
        "ci_<r>_<r>",
        "",
        "f8",
        "src.morph.param;arith.ratio",
        "concentration: aper_flux of the first circle named over that of the second; NaN where one is <= 0",
    ),
    (
        "ci_class",
        "",
        "i4",
        "src.class.starGalaxy",
        "by the line `aperture.cut`: 1 star (below), 0 other (above), -1 on the line or not measurable",
    ),
    (
        "p_star",
        "",
        "f8",
        "src.class.starGalaxy;stat.probability",
        "probability that the source is not extended, from spread_model, growth and rchi2",
    ),
    (
        "aper_flags",
        "",
        "u4",
        "meta.code",
        "bits about the apertures, explained by `crowdfit flags`",
    ),
)
"""In the order of the catalogue."""
