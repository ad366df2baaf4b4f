"""Where exposures lie and how their fluxes compare before any pass."""

import dataclasses

import numpy as np
import pytest

from crowdfit.errors import InputError
from crowdfit.frame import Frame, StampSizes
from crowdfit.joint.begin import bands_of, header_scales, mappings_of, tied, views_of, whole_box
from crowdfit.joint.options import Joint
from crowdfit.pointings import Pointing, point
from crowdfit.scene import Scene


@pytest.fixture(scope="module")
def pointed():
    scene = Scene(ny=96, nx=96, n_stars=60, flux_min=3000.0, flux_max=1e5, fwhm=2.5, sky=60.0, seed=5)
    return point(
        scene,
        [
            Pointing(),
            Pointing(dx=20.3, dy=-6.2, error_x=4.2, error_y=-2.6, time=2.0),
            Pointing(rotation=90.0),
        ],
    )


@pytest.fixture(scope="module")
def exposures(pointed):
    return tuple(one.exposure for one in pointed)


def changed(exposure, **changes):
    return dataclasses.replace(exposure, **changes)


def test_exposures_lie_where_their_wcs_say(exposures, pointed):
    mappings = mappings_of(exposures, Joint())
    first, turned = (pointed[k].made.truth for k in (0, 2))
    there = mappings[2](np.asarray(first["x"]), np.asarray(first["y"]))
    np.testing.assert_allclose(there.x, turned["x"], atol=2e-3)
    np.testing.assert_allclose(there.y, turned["y"], atol=2e-3)


def test_bright_stars_mend_a_wrong_wcs(exposures, pointed):
    frames = tuple(
        Frame.start(one.exposure, one.made.psf, StampSizes()).with_(view=view)
        for one, view in zip(pointed, views_of(exposures, Joint()), strict=True)
    )
    for search, off in ((10.0, 0.1), (0.0, 4.9)):
        second = tied(frames, Joint(search=search))[1]
        there = second.view.mapping(*(np.asarray(pointed[0].made.truth[name]) for name in "xy"))
        error = np.hypot(there.x - pointed[1].made.truth["x"], there.y - pointed[1].made.truth["y"])
        assert np.median(error) == pytest.approx(off, abs=0.15)
    assert whole_box(frames).x1 > 95


def test_exposures_without_wcs_are_refused_unless_they_share_pixels(exposures):
    bare = tuple(changed(one, wcs=None) for one in exposures)
    with pytest.raises(InputError, match="has no WCS.*joint.grid=pixels"):
        mappings_of(bare, Joint())
    assert len(mappings_of(bare, Joint(grid="pixels"))) == 3
    cut = changed(bare[1], data=bare[1].data[:50], ivar=bare[1].ivar[:50])
    with pytest.raises(InputError, match=r"exposure2: has \(50, 96\) pixels"):
        mappings_of((bare[0], cut), Joint(grid="pixels"))


def test_exposures_that_do_not_touch_are_refused(exposures):
    wcs = exposures[1].wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix + [500, 0]
    with pytest.raises(InputError, match="exposure2: shows no part of the sky that exposure1"):
        mappings_of((exposures[0], changed(exposures[1], wcs=wcs), exposures[2]), Joint())


def test_scales_follow_exposure_times_of_counts(exposures):
    assert header_scales(exposures) == pytest.approx((1.0, 2.0, 1.0))
    rates = tuple(changed(one, unit="electron/s") for one in exposures)
    assert header_scales(rates) == (1.0, 1.0, 1.0)


def test_scales_follow_zero_points_where_all_have_one(exposures):
    two = (
        changed(exposures[0], meta={"MAGZERO": 25.0}, unit="adu"),
        changed(exposures[1], meta={"MAGZERO": 26.0}, unit="electron"),
    )
    assert header_scales(two)[1] == pytest.approx(10**0.4)


def test_mixed_units_without_zero_points_are_refused(exposures):
    two = exposures[0], changed(exposures[1], unit="MJy/sr")
    with pytest.raises(InputError, match="exposure2: is in MJy/sr, exposure1 in electron"):
        header_scales(two)
    # of another filter they are never compared
    assert header_scales((two[0], changed(two[1], band="F2"))) == (1.0, 1.0)


def test_bands_are_counted_once(exposures):
    three = (exposures[0], changed(exposures[1], band="F2"), exposures[2])
    assert bands_of(three) == ("F1", "F2")
    assert [view.band for view in views_of(three, Joint())] == [0, 1, 0]
    assert [view.column for view in views_of(three, Joint(flux="exposure"))] == [0, 1, 2]
