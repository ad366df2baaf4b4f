"""Both solvers: against each other, against the truth, and what the priors do."""

import dataclasses

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.solve import LsqrSolve, PcgSolve
from crowdfit.stages.system import Columns, Normal, System, shift_prior
from tests.reference import EPS
from tests.reference import normal as twins
from tests.reference.scenes import varying_psf

SHAPE = (90, 96)
EXACT = {
    "pcg": PcgSolve(tolerance=1e-6, final_tolerance=1e-6, max_iter=2000, shift_sigma=0.15),
    "lsqr": LsqrSolve(tolerance=1e-12, max_iter=20_000, shift_sigma=0.15),
}


@pytest.fixture(scope="module")
def field(crowd):
    """Return a crowd of 300 stars, its noisy frame with half of each flux explained, and guesses off by 0.1 px."""
    psf, truth = moffat(3.0, 3.5, radius=14), crowd(300, SHAPE, flux=(200, 3e4))
    rng = np.random.default_rng(2)
    image = render(psf, truth.x, truth.y, truth.flux, SHAPE)
    image += rng.normal(0, np.sqrt(100 + image)).astype(np.float32)
    ivar = np.where(rng.random(SHAPE) < 0.02, 0, 1 / 100)
    frame = Frame.start(Exposure.of(image, ivar, gain=1.0), psf, StampSizes())
    start = truth.changed(
        flux=truth.flux * 0.5, x=truth.x + rng.normal(0, 0.1, 300), y=truth.y + rng.normal(0, 0.1, 300)
    )
    return truth, start, frame.rendered(start)


@pytest.mark.parametrize("shifts", [False, True])
def test_solvers_agree(field, shifts):
    """C016, C020: to 0.01 of each star's own error, in fluxes and steps."""
    _, start, frame = field
    pcg, lsqr = (EXACT[kind]((frame,), start, shifts=shifts) for kind in ("pcg", "lsqr"))
    assert pcg.converged
    assert lsqr.converged
    assert np.allclose(pcg.sources.flux_err, lsqr.sources.flux_err, rtol=1e-6)
    assert np.abs((pcg.sources.flux - lsqr.sources.flux) / pcg.sources.flux_err).max() < 0.01
    for a, b in ((pcg.step_x, lsqr.step_x), (pcg.step_y, lsqr.step_y)):
        if shifts:
            assert np.abs((a - b) / pcg.shift_err).max() < 0.01
            assert np.abs(a).max() > 0.05
        else:
            assert not a.any()
            assert not b.any()


@pytest.mark.parametrize("kind", EXACT)
def test_normal_equations_are_satisfied(field, kind):
    """The gradient of chi^2 and prior together is 0 at the answer, by dense matrices."""
    _, start, frame = field
    root = np.sqrt(frame.fit_ivar)
    c = Columns.of(frame, start, root)
    design = twins.design(c.x, c.y, c.half, c.offset, c.stamps, SHAPE)
    prior = shift_prior(frame, start.flux, 0.15 * frame.psf.fwhm / 3)
    unknowns = EXACT[kind].solve(System.of(frame, start, prior=prior)).unknowns.ravel()
    prior = np.outer(prior, [0, 1, 1]).ravel()
    gradient = design.T @ (frame.resid * root).ravel() - (design.T @ design) @ unknowns - prior * unknowns
    assert np.abs(gradient / np.sqrt((design**2).sum(axis=0) + prior)).max() < 0.01


@pytest.mark.parametrize(
    "solver", [PcgSolve(shift_sigma=0.15), LsqrSolve(shift_sigma=0.15)], ids=["pcg", "lsqr"]
)
def test_default_tolerance(field, solver):
    """C020: a pass may stop early, for the next goes on from there; the last solve, flux only, may not.

    In units of isolated stars, of whom there are none here: what two stars share is known far worse than that.
    """
    _, start, frame = field
    for shifts, rms, most in ((True, 2.5, 25.0), (False, 0.02, 0.1)):
        exact = EXACT["pcg"]((frame,), start, shifts=shifts).sources
        fit = solver((frame,), start, shifts=shifts)
        error = (fit.sources.flux - exact.flux) / exact.flux_err
        assert fit.converged
        assert np.std(error) < rms
        assert np.abs(error).max() < most


@pytest.mark.parametrize("kind", EXACT)
def test_fluxes_without_noise(kind, crowd, make_frame):
    """Law: render, then solve at the true positions, returns the fluxes; as P036 sums to 1, in image units."""
    psf, truth = gaussian(3.0, radius=12), crowd(80, (60, 64))
    frame = make_frame(psf, truth, (60, 64))
    start = truth.changed(flux=truth.flux * 0.9)
    fit = EXACT[kind]((frame.rendered(start),), start, shifts=False)
    error = np.abs(fit.sources.flux - truth.flux) / fit.sources.flux_err
    # single-precision pixels of up to 1e5, noise 1: rounding is some 0.01 of the noise
    assert error.max() < 0.1


@pytest.mark.parametrize("kind", EXACT)
def test_prior_keeps_a_pair_together(kind, make_frame):
    """algorithm.md, section 7: without it two stars 0.7 px apart get huge opposite steps."""
    psf, truth = moffat(4.0), Sources.at([20.0, 20.7, 40.0], [20.0, 20.0, 20.0], [1e4, 1e4, 1e4])
    frame = make_frame(psf, truth, (40, 60), noise=10.0, seed=3)
    frame = frame.rendered(truth)
    steps = [
        np.abs(dataclasses.replace(EXACT[kind], shift_sigma=width)((frame,), truth, shifts=True).step_x)
        for width in (0.03, 1000.0)
    ]
    assert steps[0][:2].max() < 0.01
    assert steps[1][:2].min() > 50 * steps[0][:2].max()
    assert steps[1][2] == pytest.approx(steps[0][2], rel=0.5)  # the star by itself needs no prior


def test_prior_is_in_pixels(make_frame):
    """The prior of an isolated star weighs against its own position error: the step is the weighted mean."""
    psf, truth = gaussian(3.0), Sources.at([20.0], [20.0], [1000.0])
    start = truth.changed(x=truth.x - 0.02)
    frame = make_frame(psf, truth, (41, 41), noise=20.0).rendered(start)
    free = dataclasses.replace(EXACT["pcg"], shift_sigma=1e3)((frame,), start, shifts=True)
    for sigma in (0.05, 0.2):
        bound = dataclasses.replace(EXACT["pcg"], shift_sigma=sigma)((frame,), start, shifts=True)
        width = sigma * psf.fwhm / 3
        expected = free.step_x * width**2 / (width**2 + free.shift_err**2)
        assert bound.step_x == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", EXACT)
def test_negative_star_does_not_move(kind, make_frame):
    """f dx of a negative f points away from where the hole is; and a hole is no star to be moved at all."""
    psf, truth = gaussian(3.0), Sources.at([20.0, 50.0], [20.0, 20.0], [-5000.0, 5000.0])
    start = truth.changed(x=truth.x - 0.1)
    frame = make_frame(psf, truth, (41, 71)).rendered(start)
    fit = EXACT[kind]((frame,), start, shifts=True)
    assert fit.sources.flux == pytest.approx([-5000, 5000], rel=0.01)
    assert (fit.step_x[0], fit.step_y[0]) == (0, 0)
    assert fit.step_x[1] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", EXACT)
def test_position_errors(field, kind, make_frame):
    """As many as there are steps: none in a flux-only solve, infinite where nothing of the star is seen."""
    _, start, frame = field
    assert np.isnan(EXACT[kind]((frame,), start, shifts=False).shift_err).all()
    psf, truth = gaussian(3.0), Sources.at([20.0, 50.0], [20.0, 20.0], [5000.0, 5000.0])
    mask = np.zeros((41, 71), bool)
    mask[:, 36:] = True
    few = make_frame(psf, truth, (41, 71), mask=mask, noise=20.0).rendered(truth)
    seen, unseen = EXACT[kind]((few,), truth, shifts=True).shift_err
    sigma2 = (psf.fwhm / 2.3548) ** 2
    expected = 20.0 / 5000 * np.sqrt(8 * np.pi) * sigma2  # Gaussian on white noise
    assert seen == pytest.approx(expected, rel=0.02)
    assert np.isinf(unseen)


@pytest.mark.parametrize("kind", EXACT)
def test_marginal_errors(field, kind, make_frame):
    """Filled where stars may shift: at least the isolated error, that of a star alone, many times it in a pair."""
    _, start, frame = field
    shifted = EXACT[kind]((frame,), start, shifts=True).sources
    assert np.all(shifted.flux_err_marginal >= shifted.flux_err * (1 - 1e-6))
    held = EXACT[kind]((frame,), shifted, shifts=False).sources
    np.testing.assert_array_equal(held.flux_err_marginal, shifted.flux_err_marginal)
    psf, truth = gaussian(3.0), Sources.at([20.0, 21.5, 60.0], [20.0, 20.0, 20.0], [1e3, 1e3, 1e3])
    few = make_frame(psf, truth, (41, 81), noise=5.0).rendered(truth)
    sources = EXACT[kind]((few,), truth, shifts=True).sources
    ratio = sources.flux_err_marginal / sources.flux_err
    assert ratio[:2].min() > 2
    assert ratio[2] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", EXACT)
def test_iteration_limit_is_told(field, kind):
    """C020: reaching the limit sets the flag `not_converged`; it is not trusted silently."""
    _, start, frame = field
    fit = dataclasses.replace(EXACT[kind], max_iter=2)((frame,), start, shifts=True)
    assert not fit.converged
    assert flags.has(fit.sources.flags, "not_converged").all()
    assert not flags.has(EXACT[kind]((frame,), start, shifts=False).sources.flags, "not_converged").any()


@pytest.mark.parametrize("kind", EXACT)
def test_no_stars(field, kind):
    fit = EXACT[kind](field[2:], Sources.empty(), shifts=True)
    assert (len(fit.sources), fit.converged) == (0, True)


@pytest.mark.parametrize("kind", EXACT)
def test_star_wholly_masked(kind, make_frame):
    """It keeps its flux, with an infinite error; its neighbours are fitted as if it were not there."""
    psf, truth = gaussian(2.5, radius=8), Sources.at([10.0, 30.0], [15.0, 15.0], [500.0, 700.0])
    mask = np.zeros((31, 41), bool)
    mask[:, 20:] = True
    frame = make_frame(psf, truth, (31, 41), mask=mask)
    fit = EXACT[kind]((frame,), truth.changed(flux=np.array([0.0, 5.0])), shifts=True)
    assert fit.sources.flux == pytest.approx([500, 5], rel=1e-4)
    assert np.isinf(fit.sources.flux_err[1])
    assert np.isfinite(fit.step_x).all()


def test_psf_that_varies_with_the_field(make_frame, crowd):
    psf, truth = varying_psf(2), crowd(30, (40, 44))
    frame = make_frame(psf, truth, (40, 44))
    start = truth.changed(flux=truth.flux * 0.9)
    fit = EXACT["pcg"]((frame.rendered(start),), start, shifts=False)
    assert np.abs((fit.sources.flux - truth.flux) / fit.sources.flux_err).max() < 0.1


def test_normal_equations_of_a_frame(field):
    """Own and cross blocks are products of the columns of the design matrix."""
    _, start, frame = field
    few = start.take(np.arange(60))
    c = Columns.of(frame, few, np.sqrt(frame.fit_ivar))
    eq, design = Normal.of(c, SHAPE), c.matrix(SHAPE, 3).toarray().astype(float)
    full, expected = twins.dense(eq.own, eq.first, eq.links, eq.cross), design.T @ design
    scale = np.sqrt(np.diag(expected))
    assert np.abs(full - expected).max() <= EPS * np.max(np.outer(scale, scale))


def test_threads(field, same_bits):
    """Same bits on 1 and 2 threads."""
    _, start, frame = field

    def work():
        fit = PcgSolve()((frame,), start, shifts=True)
        return fit.sources.flux, fit.step_x, fit.step_y

    same_bits(work)
