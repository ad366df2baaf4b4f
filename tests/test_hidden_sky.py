"""The sky that crowds hide: told from the stars by least squares, and left alone elsewhere."""

import dataclasses

import numpy as np
import pytest

from benchmarks.score import as_stars, match, truth_of
from crowdfit.api import fit_image
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.render import render
from crowdfit.simulate import SCENES, Cluster, simulate
from crowdfit.sources import Sources
from crowdfit.stages.hidden_sky import CROWD, hidden_cells, near, pyramids, solved_sky
from crowdfit.stages.sky import MeshSky
from crowdfit.stages.solve import PcgSolve

SHAPE = (128, 150)
CELL = 32
CELLS = (4, 5)


def some_cells(*cells):
    mask = np.zeros(CELLS, bool)
    for cell in cells:
        mask[cell] = True
    return mask


def crowd(n=1400, seed=1):
    """Stars all over the image, about 14 pixels each."""
    rng = np.random.default_rng(seed)
    return Sources.at(
        rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n), rng.uniform(200, 4000, n)
    )


def frame_of(psf, sky, stars, seed=2):
    data = (
        sky
        + render(psf, stars.x, stars.y, stars.flux, SHAPE)
        + np.random.default_rng(seed).normal(size=SHAPE)
    )
    return Frame.start(Exposure.of(data, np.ones(SHAPE)), psf, StampSizes())


def test_pyramids_share_the_sky():
    """All together they are 1 everywhere, also beyond the centres of the outermost cells."""
    total = np.zeros(SHAPE)
    for part in pyramids(np.ones(CELLS, bool), CELL, SHAPE):
        total[part.rows, part.cols] += part.values
    np.testing.assert_allclose(total, 1)


def test_pyramid_of_one_cell():
    (part,) = pyramids(some_cells((1, 2)), CELL, SHAPE)
    plane = np.zeros(SHAPE)
    plane[part.rows, part.cols] = part.values
    assert plane[47:49, 79:81] == pytest.approx(1, abs=0.05)
    assert plane[16:80, 48:112].sum() == pytest.approx(plane.sum(), rel=0.01)
    assert plane.sum() == pytest.approx(CELL**2, rel=0.01)


def test_hidden_cells(small_psf):
    """Cells are hidden by many stars where too few good pixels are free, and by nothing else."""
    rng = np.random.default_rng(1)
    enough = int(np.ceil(CROWD * CELL**2 / small_psf.fwhm**2))
    many = {(0, 0): enough, (1, 2): enough + 5, (3, 3): enough - 1}
    corner = np.repeat(np.array(list(many)) * CELL, list(many.values()), axis=0)
    y, x = (corner + rng.uniform(0, CELL - 1, corner.shape)).T
    stars = Sources.at(x, y, np.full(len(x), 500.0))
    frame = frame_of(small_psf, 0.0, stars)
    nothing = np.zeros(SHAPE, bool)
    assert np.argwhere(hidden_cells(frame, stars, nothing, CELL, 0.1)).tolist() == [[0, 0], [1, 2]]
    some = nothing.copy()
    some[CELL : CELL + 11, 2 * CELL : 2 * CELL + 11] = True  # 12 % of one cell
    assert np.argwhere(hidden_cells(frame, stars, some, CELL, 0.1)).tolist() == [[0, 0]]
    assert np.argwhere(hidden_cells(frame, stars, some, CELL, 0.2)).tolist() == [[0, 0], [1, 2]]
    assert not hidden_cells(frame, stars, nothing, CELL, 0.0).any()


def test_masked_pixels_are_not_hidden(small_psf):
    """What is free is counted among good pixels: a cell with a few good ones, all free, is not hidden."""
    stars = crowd()
    frame = frame_of(small_psf, 0.0, stars)
    ivar = np.ones(SHAPE)
    ivar[: CELL - 2, :CELL] = 0
    frame = Frame.start(Exposure.of(frame.exposure.data, ivar), small_psf, StampSizes())
    assert not hidden_cells(frame, stars, np.ones(SHAPE, bool), CELL, 0.5).any()


def test_stars_near(small_psf):
    """Stars on the pyramids and a little outside may vary, and nobody else."""
    stars = crowd()
    inside = near(frame_of(small_psf, 0.0, stars), stars, some_cells((1, 2)), CELL)
    far = 0.5 * CELL + CELL + 2 * small_psf.fwhm
    x, y = 2.5 * CELL - 0.5, 1.5 * CELL - 0.5
    expected = (np.abs(stars.x - x) < far) & (np.abs(stars.y - y) < far)
    assert inside.tolist() == np.flatnonzero(expected).tolist()
    assert 100 < len(inside) < len(stars)


@pytest.mark.parametrize("ratio", [0.0, 40.0], ids=["plain", "filtered"])
def test_sky_under_a_crowd(small_psf, ratio):
    """Stars that hold all the light of a bump of the sky give it back, with the rest of the sky as it was."""
    stars, cells = crowd(), some_cells((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))
    sky = np.zeros(SHAPE, np.float32)
    for part in pyramids(cells, CELL, SHAPE):
        sky[part.rows, part.cols] += np.float32(30) * part.values.astype(np.float32)
    frame = frame_of(small_psf, sky, stars).with_(confusion=ratio)
    start = frame.rendered(stars)
    biased = PcgSolve(final_tolerance=1e-3)((start,), stars, shifts=False).sources
    assert np.median((biased.flux - stars.flux)[near(frame, stars, cells, CELL)]) > 25
    found = solved_sky(frame.rendered(biased), biased, cells, CELL)
    middle = np.s_[CELL : 3 * CELL, CELL : 4 * CELL]
    assert np.mean(found[middle]) == pytest.approx(np.mean(sky[middle]), abs=0.5)
    assert np.std((found - sky)[middle]) < 0.5
    assert not found[sky == 0].any()


def test_right_sky_stays(small_psf):
    """Where sky and stars are right the fit changes them by noise alone, also where two stars are at one place."""
    stars = crowd()
    twin = stars.append(Sources.at(stars.x[:1], stars.y[:1], [500.0]))
    frame = frame_of(small_psf, 0.0, twin).rendered(twin)
    found = solved_sky(frame, twin, np.ones(CELLS, bool), CELL)
    assert np.std(found) < 0.5
    assert np.isfinite(found).all()


def test_sky_has_no_more_light_than_there_is(small_psf):
    """A cell without usable pixels stays as it is, rather than running away."""
    stars = crowd()
    data = frame_of(small_psf, 0.0, stars).exposure.data
    ivar = np.ones(SHAPE)
    ivar[:100, :100] = 0
    frame = Frame.start(Exposure.of(data, ivar), small_psf, StampSizes()).rendered(stars)
    found = solved_sky(frame, stars, some_cells((0, 0), (1, 1)), CELL)
    assert np.all(np.abs(found) < 1)


def test_no_hidden_cell(small_psf):
    frame = frame_of(small_psf, 5.0, Sources.empty())
    assert solved_sky(frame, Sources.empty(), np.zeros(CELLS, bool), CELL) is frame.sky


def test_image_unit(small_psf):
    """The same in electrons and in MJy / sr."""
    stars, cells = crowd(), some_cells((1, 1), (2, 2))
    frame = frame_of(small_psf, 20.0, stars)
    once = solved_sky(frame.rendered(stars), stars, cells, CELL)
    unit = 1e-6
    other = Frame.start(
        Exposure.of(unit * frame.exposure.data, np.full(SHAPE, unit**-2)), small_psf, StampSizes()
    )
    small = stars.changed(flux=unit * stars.flux)
    again = solved_sky(other.rendered(small), small, cells, CELL)
    np.testing.assert_allclose(again / unit, once, atol=0.05)


@pytest.fixture(scope="module")
def cluster():
    """The core of a cluster, its middle without a free pixel, and empty corners."""
    heart = Cluster(x=79.5, y=79.5, n_stars=3600, core_radius=36.0, gamma=4.0)
    return simulate(
        dataclasses.replace(SCENES["cluster"], ny=160, nx=160, clusters=(heart,), dead_columns=0, seed=4)
    )


def bias(made, hidden):
    """Return by how much stars above S/N 50 in the core are too bright, and what share of entries is false."""
    result = fit_image(made.data, made.err, made.dq, sky__hidden=hidden)
    truth, found = truth_of(made), as_stars(result.catalog)
    partner = match(truth, found)
    core = np.hypot(truth.stars.x - 79.5, truth.stars.y - 79.5) < 36
    star = np.flatnonzero((partner >= 0) & truth.clean & core & (truth.snr(truth.stars.flux) > 50))
    ratio = found.flux[partner[star]] / truth.stars.flux[star]
    return float(np.median(ratio) - 1), len(found) - int((partner >= 0).sum())


def test_core_of_a_cluster(cluster):
    """The light of stars that are too faint to be found goes to the sky, not to those that are in the list."""
    (filled, false_filled), (solved, false_solved) = bias(cluster, 0.0), bias(cluster, MeshSky().hidden)
    assert filled > 0.07
    assert solved < 0.75 * filled
    assert false_solved < 0.75 * false_filled
