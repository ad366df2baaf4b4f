"""Images that hold what is no star: galaxies, nebulae, hot pixels, cosmic rays, large masks, a saturated corner.

One field of stars with known truth is spoiled in one way after the other. What counts: the fit ends, the stars
elsewhere keep their fluxes, and there are no more false stars than said here, which is what was measured with some
room. False is a source above 5 sigma with no true star of at least half its flux within 0.75 FWHM.
"""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.spatial import cKDTree

from crowdfit import fit_image, flags
from crowdfit.scene import Scene
from crowdfit.simulate import simulate

SCENE = Scene(
    ny=300,
    nx=320,
    n_stars=500,
    flux_min=300.0,
    flux_max=3e5,
    slope=0.6,
    fwhm=3.0,
    sky=400.0,
    saturation=None,
    seed=4,
)
NOISE = SCENE.noise


@pytest.fixture(scope="module")
def field():
    return simulate(SCENE)


@dataclasses.dataclass
class Seen:
    """A fit beside the truth: where false sources are, and fluxes of the true stars over their truth (NaN: not found)."""

    table: object
    x: np.ndarray
    y: np.ndarray
    snr: np.ndarray
    is_false: np.ndarray
    ratio: np.ndarray

    def n_false(self, where=None):
        """Return the number of false sources, on the pixels of a mask or everywhere."""
        if where is None:
            return int(self.is_false.sum())
        row, col = (
            np.clip(np.round(at).astype(int), 0, n - 1) for at, n in zip((self.y, self.x), where.shape)
        )
        return int(np.sum(self.is_false & where[row, col]))


def seen(field, data, **options):
    """Fit a spoiled image of a field."""
    err = options.pop("err", None)
    err = np.full(data.shape, NOISE) if err is None else err
    result = fit_image(data, err, input__gain=SCENE.gain, input__err_holds="sky", **options)
    table, truth = result.catalog, field.truth
    x, y, flux = (np.asarray(getattr(table[key], "value", table[key])) for key in ("x", "y", "flux"))
    snr = np.asarray(table["snr"])
    star_x, star_y, star_flux = (np.asarray(truth[key]) for key in ("x", "y", "flux"))
    near = cKDTree(np.c_[star_x, star_y]).query_ball_point(np.c_[x, y], 0.75 * SCENE.fwhm)
    is_true = np.array([any(star_flux[j] > 0.5 * flux[i] for j in near[i]) for i in range(len(x))], bool)
    gap, match = cKDTree(np.c_[x, y]).query(np.c_[star_x, star_y])
    ratio = np.where(gap < 0.5 * SCENE.fwhm, flux[match] / star_flux, np.nan)
    return Seen(table, x, y, snr, ~is_true & (snr > 5), ratio)


def bright_stars(field, away=None):
    """Return which true stars are above 50 sigma and well inside, and on the pixels of a mask if there is one."""
    x, y, flux = (np.asarray(field.truth[key]) for key in ("x", "y", "flux"))
    ny, nx = field.data.shape
    chosen = (flux > 50 * NOISE * 6) & (x > 9) & (y > 9) & (x < nx - 10) & (y < ny - 10)
    if away is not None:
        chosen &= away[
            np.clip(np.round(y).astype(int), 0, ny - 1), np.clip(np.round(x).astype(int), 0, nx - 1)
        ]
    return chosen


@pytest.fixture(scope="module")
def blank(field):
    return seen(field, field.data)


def scattered(rng, field):
    """Return the pixels of some tracks of cosmic rays: 60 hits of 1 to 12 pixels, sharper than any star."""
    hit = np.zeros(field.data.shape, bool)
    for _ in range(60):
        x, y, angle = rng.uniform(5, 315), rng.uniform(5, 295), rng.uniform(0, np.pi)
        for t in np.arange(0, rng.integers(1, 13), 0.5):
            row, col = int(y + t * np.sin(angle)), int(x + t * np.cos(angle))
            if 0 <= row < hit.shape[0] and 0 <= col < hit.shape[1]:
                hit[row, col] = True
    return hit
