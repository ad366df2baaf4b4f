"""How an exposure sees a common list."""

import numpy as np
import pytest

from crowdfit.mapping import Mapping
from crowdfit.psf.analytic import gaussian
from crowdfit.sources import Sources
from crowdfit.view import JointSources, View

SHAPE = (40, 50)


@pytest.fixture
def stars():
    x, y = np.array([5.0, 20.0, 60.0, 47.0]), np.array([5.0, 30.0, 10.0, 41.5])
    fluxes = np.array([[10.0, 1.0], [20.0, 2.0], [30.0, 3.0], [40.0, 4.0]])
    return JointSources.of(Sources.at(x, y, fluxes[:, 0]), fluxes, fluxes / 10)


def shifted(dx, dy):
    mapping = Mapping.identity(SHAPE)
    terms = np.zeros((6, 2))
    terms[0] = dx, dy
    return mapping.corrected(terms)


def test_stars_off_the_footprint_are_not_seen(stars):
    local, rows = View(0, 0, SHAPE, Mapping.identity(SHAPE)).local(stars, 3.0)
    np.testing.assert_array_equal(rows, [0, 1, 3])
    np.testing.assert_array_equal(local.id, stars.id[rows])


def test_places_and_fluxes_are_those_of_the_exposure(stars):
    local, rows = View(0, 1, SHAPE, shifted(-4.0, 2.0), 3.0).local(stars, 3.0)
    np.testing.assert_allclose(local.x, stars.x[rows] - 4)
    np.testing.assert_allclose(local.y, stars.y[rows] + 2)
    np.testing.assert_allclose(local.flux, 3 * stars.fluxes[rows, 1])
    np.testing.assert_allclose(local.flux_err, 3 * stars.flux_errs[rows, 1])


def test_a_flux_of_its_own_is_in_its_own_unit(stars):
    view = View(1, 0, SHAPE, Mapping.identity(SHAPE), 3.0, by_exposure=True, depth=0.5)
    local, rows = view.local(stars, 3.0)
    np.testing.assert_allclose(local.flux, stars.fluxes[rows, 1])
    np.testing.assert_allclose(local.flux_err, 0.5 * stars.flux_errs[rows, 1])


def test_lists_keep_their_columns_when_they_grow_and_shrink(stars):
    both = stars.append(stars.take(np.array([1])))
    assert isinstance(both, JointSources)
    np.testing.assert_array_equal(both.fluxes[-1], stars.fluxes[1])
    assert both.id[-1] == stars.id.max() + 1
    assert isinstance(both.flagged("new", np.ones(5, bool)).take(np.zeros(0, int)), JointSources)


def test_a_frame_renders_what_it_sees(stars, make_frame):
    psf = gaussian(2.5, radius=8)
    frame = make_frame(psf, Sources.empty(), SHAPE, seed=1)
    view = View(0, 0, SHAPE, shifted(1.5, -0.5), 2.0)
    joint = frame.with_(view=view).rendered(stars)
    own = frame.rendered(view.local(stars, 5.0).sources)
    np.testing.assert_array_equal(joint.model, own.model)
    # a list of its own is not mapped again
    np.testing.assert_array_equal(joint.rendered(joint.local(stars).sources).model, joint.model)


def test_all_exposures_together_see_deeper(make_frame):
    frame = make_frame(gaussian(2.5, radius=8), Sources.empty(), SHAPE, seed=1)
    view = View(0, 0, SHAPE, Mapping.identity(SHAPE), depth=0.5)
    assert frame.with_(view=view).faint_error == pytest.approx(frame.faint_error / 2)
