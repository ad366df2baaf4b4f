"""The linear system over several exposures."""

import numpy as np
import pytest

from crowdfit.joint.system import JointSystem, Unknowns
from crowdfit.mapping import Mapping
from crowdfit.psf.analytic import gaussian
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve
from crowdfit.view import JointSources, View

SHAPE = (60, 70)
TERMS = np.zeros((6, 2))


def joint(x, y, flux, n_columns=1):
    flux = np.asarray(flux, float)
    fluxes = flux[:, None] * np.ones(n_columns)
    return JointSources.of(Sources.at(x, y, flux), fluxes, np.ones_like(fluxes))


def mapped(turn=0.0, dx=0.0, dy=0.0):
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mapping = Mapping.identity(SHAPE)
    centre = np.array(mapping.centre)
    affine = np.vstack([centre - matrix @ centre + [dx, dy], matrix.T])
    return Mapping(mapping.box, affine, None, TERMS)


@pytest.fixture(scope="module")
def two(make_frame):
    """Two exposures of twenty stars, the second turned, wider and twice as deep, with start fluxes 10 % low."""
    rng = np.random.default_rng(4)
    x, y, flux = rng.uniform(8, 60, 20), rng.uniform(8, 50, 20), rng.uniform(400, 4000, 20)
    frames = []
    for k, (mapping, fwhm, scale) in enumerate(((mapped(), 2.5, 1.0), (mapped(3.0, 1.4, -0.7), 3.0, 2.0))):
        psf = gaussian(fwhm, radius=12)
        there = mapping(x, y)
        frame = make_frame(psf, Sources.at(there.x, there.y, scale * flux), SHAPE, noise=1.0, level=1e-4)
        frames.append(frame.with_(view=View(k, 0, SHAPE, mapping, scale)))
    stars = joint(x, y, 0.9 * flux)
    return tuple(frame.rendered(stars) for frame in frames), stars, flux


def dense(system):
    """Return the matrix of a system, column by column."""
    n, c = system.blocks.flux.shape
    columns = []
    for k in range(n * (c + 2)):
        unit = np.zeros(n * (c + 2))
        unit[k] = 1
        out = system.applied(Unknowns(unit[: n * c].reshape(n, c), unit[n * c :].reshape(n, 2)))
        columns.append(np.concatenate([out.flux.ravel(), out.step.ravel()]))
    return np.array(columns).T


def test_solution_is_that_of_the_dense_matrix(two):
    frames, stars, _ = two
    system = JointSystem.of(frames, stars, shift_sigma=0.8, fwhm=2.5)
    matrix = dense(system)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7 * np.abs(matrix).max())
    rhs = system.rhs()
    expected = np.linalg.solve(matrix, np.concatenate([rhs.flux.ravel(), rhs.step.ravel()]))
    found, iterations, converged = system.solved(1e-6, 500)
    assert converged
    assert iterations < 100
    sigma = 1 / np.sqrt(np.diag(matrix))
    off = (np.concatenate([found.flux.ravel(), found.step.ravel()]) - expected) / sigma
    assert np.abs(off).max() < 1e-3


def test_blocks_are_those_of_the_matrix(two):
    frames, stars, _ = two
    system = JointSystem.of(frames, stars, shift_sigma=0.8, fwhm=2.5)
    matrix, n = dense(system), len(stars)
    i = 7
    rows = [i, n + 2 * i, n + 2 * i + 1]
    block = matrix[np.ix_(rows, rows)]
    own = system.blocks.with_prior(system.prior)
    assert block[0, 0] == pytest.approx(own.flux[i, 0])
    np.testing.assert_allclose(block[0, 1:], own.mixed[i, 0], rtol=1e-4, atol=1e-6 * block[0, 0])
    np.testing.assert_allclose(block[1:, 1:], own.step[i], rtol=1e-6)
    v = Unknowns(np.zeros((n, 1)), np.zeros((n, 2)))
    v.flux[i], v.step[i] = 1.0, [2.0, -1.0]
    solved = own.inverse().applied(v)
    np.testing.assert_allclose(
        np.linalg.solve(block, [1.0, 2.0, -1.0]), [solved.flux[i, 0], *solved.step[i]], rtol=1e-5
    )


def test_fluxes_and_steps_of_displaced_stars_come_back(two):
    frames, stars, flux = two
    start = stars.changed(x=stars.x + 0.05, y=stars.y - 0.03)
    frames = tuple(frame.rendered(start) for frame in frames)
    for _ in range(3):
        system = JointSystem.of(frames, start, shift_sigma=0.8, fwhm=2.5)
        found, _, _ = system.solved(1e-5, 500)
        start = start.changed(
            x=start.x + found.step[:, 0], y=start.y + found.step[:, 1], fluxes=start.fluxes + found.flux
        )
        frames = tuple(frame.rendered(start) for frame in frames)
    np.testing.assert_allclose(start.fluxes[:, 0], flux, rtol=2e-3)
    np.testing.assert_allclose(start.x, stars.x, atol=2e-3)


def test_one_exposure_is_solved_as_a_single_image(two):
    frames, stars, _ = two
    frame = frames[0]
    alone = PcgSolve(tolerance=1e-6)
    single = alone((frame.with_(view=None),), frame.local(stars).sources, shifts=True)
    system = JointSystem.of((frame,), stars, shift_sigma=0.8, fwhm=frame.psf.fwhm)
    found, _, _ = system.solved(1e-6, 500)
    sigma = single.sources.flux_err
    assert np.max(np.abs(stars.fluxes[:, 0] + found.flux[:, 0] - single.sources.flux) / sigma) < 0.02
    assert np.max(np.abs(found.step[:, 0] - single.step_x)) < 0.15 * np.max(np.abs(single.step_x)) + 1e-4


def test_a_flux_for_each_exposure_when_asked(two):
    frames, stars, flux = two
    frames = tuple(frame.with_(view=frame.view.with_(by_exposure=True)) for frame in frames)
    both = joint(stars.x, stars.y, 0.9 * flux, 2)
    both = both.changed(fluxes=both.fluxes * [1.0, 2.0])
    frames = tuple(frame.rendered(both) for frame in frames)
    system = JointSystem.of(frames, both, shift_sigma=None, fwhm=2.5)
    found, _, _ = system.solved(1e-4, 500)
    np.testing.assert_allclose(both.fluxes + found.flux, flux[:, None] * [1.0, 2.0], rtol=3e-3)
    assert not found.step.any()


def test_wishes_tell_by_how_much_an_exposure_is_off(two):
    frames, stars, flux = two
    stars = stars.changed(fluxes=flux[:, None].copy(), flux=flux)
    terms = TERMS.copy()
    terms[0] = 0.06, -0.04
    view = frames[1].view
    off = frames[1].with_(view=view.with_(mapping=view.mapping.corrected(terms)))
    frames = tuple(frame.rendered(stars) for frame in (frames[0], off))
    system = JointSystem.of(frames, stars, shift_sigma=0.8, fwhm=2.5)
    found, _, _ = system.solved(1e-5, 500)
    first, second = system.wishes(found)
    # both wish the stars back from where they have met half way
    apart = [
        np.median(second.step_x) - np.median(first.step_x),
        np.median(second.step_y) - np.median(first.step_y),
    ]
    np.testing.assert_allclose(apart, [-0.06, 0.04], atol=0.012)
