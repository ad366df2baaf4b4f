"""Pruning and merging: what is taken out, what is exempt, and that no light is lost."""

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import moffat
from crowdfit.sources import Sources
from crowdfit.stages.prune import NoPrune, Prune, merge_close

NONE = {"faint": 0, "negative": 0, "unseen": 0, "merged": 0, "same_blob": 0}


@pytest.fixture
def frames(small_psf):
    """A frame with a PSF of FWHM 3 px; its pixels do not matter."""
    data = np.random.default_rng(1).normal(size=(50, 60))
    return (Frame.start(Exposure.of(data, np.ones((50, 60))), small_psf, StampSizes()),)


def stars(flux, flux_err=1.0, x=None, y=None):
    """Return stars 10 px apart unless told otherwise."""
    flux = np.asarray(flux, float)
    n = len(flux)
    found = Sources.at(np.arange(n) * 10.0 if x is None else x, np.full(n, 5.0) if y is None else y, flux)
    return found.changed(flux_err=np.broadcast_to(np.asarray(flux_err, float), n).copy())


def test_each_reason_is_counted_once(frames):
    """Faint below `nsigma`, not positive, without a usable pixel; the rest stays in its order."""
    given = stars([10.0, 3.4, -5.0, 0.0, 100.0, 3.6, 50.0], [1, 1, 1, 1, np.inf, 1, 10])
    left, removed = Prune(nsigma=3.5, purity=0.0)(frames, given)
    assert removed == NONE | {"faint": 1, "negative": 2, "unseen": 1}
    np.testing.assert_array_equal(left.id, [0, 5, 6])


def test_negative_and_unseen_is_unseen(frames):
    _, removed = Prune()(frames, stars([-1.0], [np.inf]))
    assert removed == NONE | {"unseen": 1}


def test_threshold_is_a_setting_in_sigma(frames):
    """In units of the error: fluxes and errors times anything give the same list (algorithm.md 11b)."""
    given = stars([10.0, 4.0, 1.0])
    for unit in (1.0, 1e-9, 1e9):
        scaled = given.changed(flux=given.flux * unit, flux_err=given.flux_err * unit)
        assert len(Prune(nsigma=5.0, purity=0.0)(frames, scaled).sources) == 1
        assert len(Prune(nsigma=2.0, purity=0.0)(frames, scaled).sources) == 2
        assert len(Prune(nsigma=0.0, purity=0.0, marginal=0.0)(frames, scaled).sources) == 3


def test_limit_follows_the_counts(frames):
    """In a list of few stars what is hardly above the noise is noise; among many it is one of them."""
    sigma = frames[0].isolated_error(np.zeros(1))[0]
    faint = stars([3.4 * sigma], sigma, [5.0], [5.0])
    for n, kept in ((2, False), (4000, True)):
        flux = sigma * 3.4 * np.random.default_rng(1).uniform(size=n) ** -1.5
        many = stars(flux, sigma, np.linspace(10, 1e6, n))
        left, _ = Prune()(frames, faint.append(many))
        assert (left.x[0] == 5.0) == kept
    assert left.x[0] == 5.0
    assert len(Prune(nsigma=3.0, purity=0.0)(frames, faint).sources) == 1


def test_undecided_split_goes(frames):
    """Bright against the noise, but a brighter neighbour may have its light: flux below 1.3 marginal errors."""
    flux, err = [10.0, 10.0, 10.0, 1000.0], np.array([7.8, 7.6, 20.0, 780.0])
    brighter = stars([2000.0] * 4, x=np.arange(4) * 10.0 + 2.0)
    given = (
        stars(flux).changed(flux_err_marginal=err).flagged("forced", np.array([False, False, True, False]))
    )
    given = given.append(brighter.changed(flux_err_marginal=np.ones(4)))
    settings = {"nsigma": 2.7, "purity": 0.0, "merge": 0.0}
    left, removed = Prune(**settings)(frames, given)
    np.testing.assert_array_equal(left.x[left.flux < 2000], [10.0, 20.0])
    assert removed == NONE | {"faint": 2}
    assert len(Prune(**settings, marginal=1.9)(frames, given).sources) == 5
    assert len(Prune(**settings, marginal=0.0)(frames, given).sources) == 8


@pytest.mark.parametrize("flux", [[60.0, 40.0], [50.0, 50.0], [40.0, 60.0]])
def test_one_of_a_split_stays(frames, flux):
    """Neither of two halves of a star is decided: the brighter one stays, or the star would be lost."""
    given = stars(flux, x=[5.0, 7.0]).changed(flux_err_marginal=np.array([50.0, 50.0]))
    left, removed = Prune(nsigma=2.7, purity=0.0)(frames, given)
    np.testing.assert_array_equal(left.flux, [max(flux)])
    assert removed == NONE | {"faint": 1}
    alone, _ = Prune(nsigma=2.7, purity=0.0)(frames, given.take(np.array([0])))
    assert len(alone) == 1
    # a brighter one that goes itself, as noise, holds nobody's light
    noisy = given.changed(flux_err=np.where(np.arange(2) == np.argmax(flux), 30.0, 1.0))
    left, _ = Prune(nsigma=2.7, purity=0.0)(frames, noisy)
    assert len(left) == 1


def test_given_stars_stay(frames):
    """Stars of a list stay whatever their flux."""
    given = stars([1.0, -3.0, 5e9, 1.0], [1, 1, np.inf, 1])
    left, removed = Prune()(frames, given.flagged("forced", np.array([True, True, True, False])))
    np.testing.assert_array_equal(left.id, [0, 1, 2])
    assert removed == NONE | {"faint": 1}


def test_a_bright_flux_exempts_nothing(frames):
    """crowdsource keeps everything above 1e5 counts."""
    assert len(Prune()(frames, stars([1e9], [1e9])).sources) == 0


def test_close_pairs_are_merged(frames, small_psf):
    """Closer than the merge radius: the brighter stays where it is, takes the other's flux and is flagged."""
    gap = 0.29 * small_psf.fwhm
    given = stars([100.0, 40.0, 70.0, 60.0], x=[10.0, 10 + gap, 30.0, 30 + 1.05 * gap], y=[5.0] * 4)
    left, removed = Prune(merge=0.3)(frames, given)
    assert removed == NONE | {"merged": 1}
    np.testing.assert_array_equal(left.id, [0, 2, 3])
    np.testing.assert_allclose(left.flux, [140, 70, 60])
    np.testing.assert_array_equal(flags.has(left.flags, "merged"), [True, False, False])
    assert left.flux.sum() == given.flux.sum()


def test_merge_radius_is_a_setting(frames):
    given = stars([100.0, 40.0], x=[10.0, 12.0], y=[5.0, 5.0])
    assert len(Prune(merge=0.8)(frames, given).sources) == 1
    assert len(Prune(merge=0.0)(frames, given.changed(x=np.array([10.0, 10.0]))).sources) == 2


def test_chain_is_not_merged_into_one():
    """Of three in a row the closest pair becomes one, and that one takes no more in the same call."""
    given = stars([10.0, 20.0, 30.0], x=[10.0, 10.8, 11.7], y=[5.0] * 3)
    left, n = merge_close(given, 1.0)
    assert n == 1
    np.testing.assert_array_equal(left.id, [1, 2])
    np.testing.assert_allclose(left.flux, [30, 30])


def test_order_of_the_list_does_not_matter():
    """The same stars survive with the same fluxes in any order."""
    rng = np.random.default_rng(5)
    given = stars(rng.uniform(1, 100, 80), x=rng.uniform(0, 30, 80), y=rng.uniform(0, 30, 80))
    once, n = merge_close(given, 1.5)
    assert n > 5
    order = rng.permutation(80)
    again, _ = merge_close(given.take(order), 1.5)
    np.testing.assert_array_equal(np.sort(again.id), np.sort(once.id))
    np.testing.assert_allclose(again.flux[np.argsort(again.id)], once.flux[np.argsort(once.id)])


def test_negative_partner_takes_nothing_away():
    left, _ = merge_close(stars([100.0, -30.0], x=[10.0, 10.1], y=[5.0, 5.0]), 1.0)
    np.testing.assert_allclose(left.flux, [100.0])


def test_old_flag_stays():
    """A star merged in an earlier pass is still marked when another pair is merged now."""
    given = stars([100.0, 50.0, 40.0], x=[10.0, 30.0, 30.1], y=[5.0] * 3).flagged(
        "merged", np.array([True, False, False])
    )
    np.testing.assert_array_equal(flags.has(merge_close(given, 1.0)[0].flags, "merged"), [True, True])


@pytest.mark.parametrize("n", [0, 1])
def test_short_lists(frames, n):
    left, removed = Prune()(frames, stars([10.0] * n))
    assert len(left) == n
    assert removed == NONE


def test_none_keeps_everything(frames):
    given = stars([1.0, -3.0, 5.0], [1, 1, np.inf])
    left, removed = NoPrune()(frames, given)
    assert left is given
    assert removed == {}


def test_faint_star_on_a_saturated_blob_stays():
    """Its flux comes from the wings and is uncertain; one that is negative goes all the same."""
    saturated = np.zeros((60, 60), bool)
    saturated[9:12, 9:12] = saturated[39:42, 39:42] = True
    noise = np.random.default_rng(1).normal(size=saturated.shape)
    exposure = Exposure.of(noise, np.where(saturated, 0.0, 1.0), saturated=saturated)
    frame = Frame.start(exposure, moffat(3.0, radius=12), StampSizes())
    given = Sources.at([10.0, 40.0, 25.0], [10.0, 40.0, 25.0], [1.0, -5.0, 1.0])
    given = given.changed(flux_err=np.ones(3), flux_err_marginal=np.ones(3))
    left, removed = Prune()((frame,), given)
    np.testing.assert_array_equal(left.id, [0])
    assert removed["faint"] == removed["negative"] == 1
