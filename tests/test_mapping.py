"""From reference pixels to those of an exposure, and back."""

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from crowdfit.errors import InputError
from crowdfit.mapping import Box, Mapping, between, polynomial
from crowdfit.world import pixel_to_sky, sky_to_pixel

SHAPE = (90, 120)


def header(*, turn=0.0, scale=1.0, ra=150.0, crpix=(60.5, 45.5), sip=0.0):
    angle = np.radians(turn)
    cd = 1e-5 / scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cards = fits.Header(
        {
            "CTYPE1": "RA---TAN-SIP" if sip else "RA---TAN", "CTYPE2": "DEC--TAN-SIP" if sip else "DEC--TAN",
            "CRVAL1": ra, "CRVAL2": 2.0, "CRPIX1": crpix[0], "CRPIX2": crpix[1],
            "CD1_1": cd[0, 0], "CD1_2": cd[0, 1], "CD2_1": cd[1, 0], "CD2_2": cd[1, 1],
        }
    )  # fmt: skip
    if sip:
        terms = {
            "A_ORDER": 3,
            "B_ORDER": 3,
            "A_2_0": sip,
            "A_0_3": sip / 50,
            "B_1_1": -sip,
            "B_3_0": sip / 40,
        }
        cards.update(terms)
    return cards


@pytest.fixture(scope="module")
def places():
    rng = np.random.default_rng(1)
    return rng.uniform(5, 100, 200), rng.uniform(5, 80, 200)


@pytest.mark.parametrize(
    "changes", [{"turn": 30.0, "scale": 0.7}, {"turn": 180.0, "crpix": (40.0, 50.0)}, {"sip": 2e-5}]
)
def test_between_two_wcs_is_the_way_over_the_sky(places, changes):
    first, second = WCS(header()), WCS(header(**changes))
    mapping = between(first, second, SHAPE, "second")
    x, y = places
    inside = (x > mapping.box.x0) & (x < mapping.box.x1) & (y > mapping.box.y0) & (y < mapping.box.y1)
    assert inside.sum() > 50
    sky = pixel_to_sky(first, x[inside], y[inside])
    there = sky_to_pixel(second, sky.ra, sky.dec)
    found = mapping(x[inside], y[inside])
    assert np.max(np.hypot(found.x - there.x, found.y - there.y)) < 1e-3


def test_jacobian_is_the_slope_of_the_mapping(places):
    mapping = between(WCS(header()), WCS(header(turn=20.0, sip=2e-5)), SHAPE, "second")
    mapping = mapping.corrected(np.random.default_rng(2).normal(0, 0.3, (6, 2)))
    x, y = (v[:20] * 0.5 + 20 for v in places)
    jacobian, h = mapping.jacobian(x, y), 1e-3
    for axis, (dx, dy) in enumerate(((h, 0), (0, h))):
        ahead, behind = mapping(x + dx, y + dy), mapping(x - dx, y - dy)
        np.testing.assert_allclose(jacobian[:, 0, axis], (ahead.x - behind.x) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(jacobian[:, 1, axis], (ahead.y - behind.y) / (2 * h), atol=1e-7)


def test_inverse_leads_back(places):
    mapping = between(WCS(header()), WCS(header(turn=20.0, sip=2e-5)), SHAPE, "second")
    mapping = mapping.corrected(np.full((6, 2), 0.2))
    back = mapping.inverse(*mapping(*places))
    np.testing.assert_allclose(np.column_stack(back), np.column_stack(places), atol=1e-6)


def test_identity_changes_nothing(places):
    mapping = Mapping.identity(SHAPE)
    np.testing.assert_array_equal(np.column_stack(mapping(*places)), np.column_stack(places))
    assert mapping.box == Box(0, 0, 119, 89)


def test_corrections_are_polynomials_of_the_place(places):
    terms = np.random.default_rng(3).normal(size=(6, 2))
    mapping = Mapping.identity(SHAPE)
    moved = mapping.corrected(terms)
    step = np.column_stack(moved(*places)) - np.column_stack(mapping(*places))
    np.testing.assert_allclose(step, polynomial(*mapping.unit(*places)) @ terms, atol=1e-9)


def test_boxes_that_only_touch_do_not_overlap():
    box = Box(0, 0, 10, 10)
    assert box.overlaps(Box(9, 9, 20, 20))
    assert not box.overlaps(Box(10, 0, 20, 10))
    assert box.joined(Box(-5, 2, 3, 30)) == Box(-5, 0, 10, 30)


def test_an_exposure_on_the_other_side_of_the_sky_is_refused():
    far = WCS(header(ra=330.0))
    far.wcs.crval = [330.0, -2.0]
    with pytest.raises(InputError, match="second: "):
        between(WCS(header()), far, SHAPE, "second")


def test_a_mapping_is_not_changed_in_place():
    mapping = Mapping.identity(SHAPE)
    mapping.corrected(np.ones((6, 2)))
    assert not mapping.terms.any()
    with pytest.raises(dataclasses.FrozenInstanceError):
        mapping.terms = np.ones((6, 2))
