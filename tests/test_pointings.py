"""Synthetic exposures of one field."""

import dataclasses

import numpy as np
import pytest

from crowdfit.pointings import Pointing, point
from crowdfit.scene import Scene
from crowdfit.world import pixel_to_sky

SCENE = Scene(ny=60, nx=80, n_stars=50, fwhm=3.0, seed=3)


@pytest.fixture(scope="module")
def three():
    return point(
        SCENE,
        [
            Pointing(),
            Pointing(dx=3.5, dy=-1.25, rotation=20.0, scale=1.1, time=2.0),
            Pointing(band="F2", colour=0.3),
        ],
    )


def test_the_same_star_lies_at_the_same_place_on_the_sky(three):
    first, second = (
        pixel_to_sky(one.exposure.wcs, one.made.truth["x"], one.made.truth["y"]) for one in three[:2]
    )
    off = np.hypot((second.ra - first.ra) * np.cos(np.radians(first.dec)), second.dec - first.dec)
    assert np.max(off) * 3600 < 1e-4


def test_stars_and_sky_grow_with_the_exposure_time(three):
    np.testing.assert_allclose(three[1].made.truth["flux"], 2 * three[0].made.truth["flux"])
    assert three[1].made.sky.mean() == pytest.approx(2 * SCENE.sky, rel=1e-3)
    assert three[1].exposure.meta["EXPTIME"] == 200


def test_colours_scatter_between_filters(three):
    ratio = np.log(np.asarray(three[2].made.truth["flux"]) / np.asarray(three[0].made.truth["flux"]))
    assert 0.2 < ratio.std() < 0.4
    assert three[2].exposure.band == "F2"


def test_each_exposure_has_noise_of_its_own():
    same = point(SCENE, [Pointing(), Pointing()])
    difference = same[0].made.data - same[1].made.data
    assert np.std(difference) > SCENE.noise
    again = point(SCENE, [Pointing()])
    np.testing.assert_array_equal(again[0].made.data, same[0].made.data)


def test_a_wrong_wcs_is_wrong_by_what_was_asked():
    right, wrong = (point(SCENE, [Pointing(error_x=e)])[0].exposure.wcs for e in (0.0, 1.5))
    assert wrong.wcs.crpix[0] - right.wcs.crpix[0] == 1.5


def test_exposures_may_be_wider():
    wide = point(SCENE, [Pointing(fwhm=4.5)])[0]
    assert wide.made.psf.fwhm > point(SCENE, [Pointing()])[0].made.psf.fwhm + 1
    assert dataclasses.is_dataclass(wide)
