"""Laws that hold whatever the numbers: scaling, symmetry, order, masks, and operations that undo each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdfit import fit_image
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.errors import marginal_errors
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve
from crowdfit.stages.system import Columns
from tests.reference import EPS
from tests.reference.scenes import ORDERS, varying_psf

SHAPE = (48, 52)
"""Stars keep 16 px away from the border of the fields that are shifted."""
FLAT = {
    "sky__kind": "fixed",
    "psf_update__kind": "none",
    "stop__max_passes": 4,
    "detect__nsigma": (50, 20),
    "detect__model_error": 0.01,
    "solve__tolerance": 1e-6,
    "solve__final_tolerance": 1e-6,
}
"""No noise is fitted, and the solver leaves nothing over."""
EXACT = PcgSolve(tolerance=1e-8, final_tolerance=1e-8, max_iter=1000)
SLOW = settings(max_examples=4)


def few_stars(seed=3, n=7):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(16, SHAPE[1] - 17, n), rng.uniform(16, SHAPE[0] - 17, n)
    return Sources.at(x, y, 10 ** rng.uniform(3, 5, n))


def fitted(image, err, psf, **options):
    """Return (n, 3) of x, y, flux in a fixed order: brightest first."""
    catalog = fit_image(image, err, psf=psf, **(FLAT | options)).catalog
    rows = np.column_stack([np.asarray(catalog[name].value) for name in ("x", "y", "flux")])
    return rows[np.argsort(-rows[:, 2])]


@pytest.fixture(scope="module")
def field(round_psf):
    """Return image, err and what a fit finds in them: stars, and noise far below the threshold."""
    s = few_stars()
    image = render(round_psf, s.x, s.y, s.flux, SHAPE)
    image += np.random.default_rng(4).normal(0, 1, SHAPE).astype(np.float32)
    err = np.ones(SHAPE)
    rows = fitted(image, err, round_psf)
    assert len(rows) == len(s)
    assert np.allclose(rows[:, :2], np.column_stack([s.x, s.y])[np.argsort(-s.flux)], atol=0.05)
    return image, err, rows


@pytest.fixture(scope="module")
def masked(field, round_psf):
    """Return image, err, which pixels are masked, and what a fit finds with zeros there."""
    image, err, _ = field
    bad = np.random.default_rng(5).random(SHAPE) < 0.03
    err = np.where(bad, np.inf, err)
    rows = fitted(np.where(bad, 0, image), err, round_psf)
    assert len(rows) >= 5
    return image, err, bad, rows


def same(rows, expected, scale=1.0):
    """Whether positions agree to 1e-4 px and fluxes to 1e-5: rounding of pixels, not of the noise."""
    return (
        rows.shape == expected.shape
        and np.allclose(rows[:, :2], expected[:, :2], rtol=0, atol=1e-4)
        and np.allclose(rows[:, 2], expected[:, 2] * scale, rtol=1e-4)
    )


@SLOW
@given(k=st.floats(1e-9, 1e9))
def test_fluxes_scale_with_the_image(k, field, round_psf):
    """No setting is in counts: electrons or MJy/sr, the same stars."""
    image, err, rows = field
    assert same(fitted(image * k, err * k, round_psf), rows, scale=k)


@SLOW
@given(dx=st.integers(-14, 14), dy=st.integers(-14, 14))
def test_whole_pixel_shift_moves_positions_only(dx, dy, field, round_psf):
    image, err, rows = field
    moved = fitted(np.roll(image, (dy, dx), (0, 1)), err, round_psf)
    assert same(moved, rows + [dx, dy, 0])


@pytest.mark.parametrize("turn", ["flip_x", "flip_y", "transpose"])
def test_flip_and_transposition_move_positions_only(turn, field, round_psf):
    image, err, rows = field
    ny, nx = SHAPE
    x, y, flux = rows.T
    turned, expected = {
        "flip_x": (image[:, ::-1], (nx - 1 - x, y)),
        "flip_y": (image[::-1], (x, ny - 1 - y)),
        "transpose": (image.T, (y, x)),
    }[turn]
    found = fitted(turned, err.reshape(turned.shape), round_psf)
    assert same(found, np.column_stack([*expected, flux]))


@SLOW
@given(value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 65535.0]))
def test_masked_pixels_do_not_matter(value, masked, round_psf):
    """Values under ivar == 0 are irrelevant, through the whole fit and down to the last bit."""
    image, err, bad, expected = masked
    assert np.array_equal(fitted(np.where(bad, value, image), err, round_psf), expected)


def crowded(psf, n=40, seed=6, gain=np.inf):
    """Return a list and its frame, with noise, a tenth of each flux still unexplained, and some masked pixels."""
    rng = np.random.default_rng(seed)
    truth = Sources.at(rng.uniform(-0.4, 51, n), rng.uniform(-0.4, 47, n), 10 ** rng.uniform(2, 4, n))
    image = render(psf, truth.x, truth.y, truth.flux, SHAPE) + rng.normal(0, 3, SHAPE).astype(np.float32)
    ivar = np.where(rng.random(SHAPE) < 0.05, 0, 1 / 9)
    start = truth.changed(flux=0.9 * truth.flux)
    return start, Frame.start(Exposure.of(image, ivar, gain=gain), psf, StampSizes()).rendered(start)


@given(seed=st.integers(0, 1000))
def test_order_of_the_stars_does_not_matter(seed):
    """To the tolerance of the solver; only the order of sums differs."""
    start, frame = crowded(moffat(3.0, radius=12))
    order = np.random.default_rng(seed).permutation(len(start))
    one, two = EXACT((frame,), start, shifts=True), EXACT((frame,), start.take(order), shifts=True)
    error = (one.sources.flux[order] - two.sources.flux) / two.sources.flux_err
    assert np.abs(error).max() < 1e-3
    assert np.array_equal(one.sources.id[order], two.sources.id)


@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("order", ORDERS)
def test_design_matrix_and_its_transpose(order, seed):
    """<A x, y> = <x, A^T y> between the sparse matrix, the kernel that projects, and the renderer."""
    start, frame = crowded(varying_psf(order, shape=SHAPE))
    rng = np.random.default_rng(seed)
    root = np.sqrt(frame.fit_ivar)
    columns = Columns.of(frame, start, root)
    flux, image = rng.normal(size=len(start)), rng.normal(size=SHAPE).astype(np.float32)
    forward = columns.matrix(SHAPE, 1) @ flux
    assert forward @ image.ravel().astype(float) == pytest.approx(
        flux @ columns.project(image)[:, 0], rel=1e-6
    )
    model = render(frame.psf, start.x, start.y, flux, SHAPE, radius=columns.half) * root
    assert np.allclose(forward, model.ravel(), rtol=0, atol=32 * EPS * np.abs(flux).max())
    full = columns.matrix(SHAPE, 3)
    assert np.allclose(full.T @ image.ravel(), columns.project(image).ravel(), rtol=1e-4, atol=1e-4)


@given(x=st.floats(19, 21), y=st.floats(19, 21))
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_are_those_of_the_value(order, x, y):
    """Stamps of dP/dx and dP/dy against finite differences of P, also where the central pixel changes.

    Differences over h lose EPS P / h to rounding and h^2 / 6 P''' to curvature.
    """
    psf, h = varying_psf(order), 0.02
    half = psf.radius - 2
    at = psf.at(x, y)  # the PSF itself varies too slowly to count as motion
    size = 2 * half + 1

    def image(px, py):
        out = render(at, px, py, 1.0, (41, 41)).astype(float)
        row, col = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        return out[row - half : row + half + 1, col - half : col + half + 1]

    _, grad_x, grad_y = at.planes(x, y, size)
    for gradient, step in ((grad_x, (h, 0)), (grad_y, (0, h))):
        difference = (image(x + step[0], y + step[1]) - image(x - step[0], y - step[1])) / (2 * h)
        assert np.abs(gradient - difference).max() < 5e-3 * np.abs(gradient).max()


@given(k=st.sampled_from([1e-6, 0.25, 4.0, 1e8]))
def test_errors_scale_with_the_noise(k):
    """Ivar times k, errors times k^-1/2. The prior of a bright star's position is as good as none."""
    start, frame = crowded(moffat(3.0, radius=12), n=6)
    start = start.changed(flux=start.flux * 1e6)
    e = frame.exposure
    other = Frame.start(Exposure.of(e.data, e.ivar.astype(float) * k), frame.psf, StampSizes(level=1e-9))
    frame = Frame.start(e, frame.psf, StampSizes(level=1e-9))
    one, two = (EXACT((f,), start, shifts=False).sources.flux_err for f in (frame, other))
    assert np.allclose(two, one / np.sqrt(k), rtol=1e-5)
    a, b = (marginal_errors(f, start, 6.0, 10) for f in (frame, other))
    assert np.allclose(b, a / k, rtol=2e-3)


@given(seed=st.integers(0, 1000))
def test_render_then_solve_returns_the_fluxes(seed):
    """Without noise, from any start; also that of a negative star."""
    rng = np.random.default_rng(seed)
    psf = moffat(2.5, radius=10)
    flux = 10 ** rng.uniform(2, 4, 20) * np.where(np.arange(20) % 5, 1, -1)
    truth = Sources.at(rng.uniform(0, 51, 20), rng.uniform(0, 47, 20), flux)
    image = render(psf, truth.x, truth.y, flux, SHAPE)
    frame = Frame.start(Exposure.of(image, np.ones(SHAPE)), psf, StampSizes(level=1e-9))
    start = truth.changed(flux=flux * rng.uniform(0.5, 2, 20))
    fit = EXACT((frame.rendered(start),), start, shifts=False)
    assert np.abs((fit.sources.flux - flux) / fit.sources.flux_err).max() < 0.1


@given(seed=st.integers(0, 1000))
def test_linear_in_the_image(seed):
    """The answer for a sum of images is the sum of the answers."""
    start, frame = crowded(moffat(3.0, radius=12), n=15)
    zero, rng = start.changed(flux=np.full(15, 1e5)), np.random.default_rng(seed)
    ivar = np.ones(SHAPE)
    images = rng.normal(0, 10, (2, *SHAPE)).astype(np.float32)

    def answer(image):
        f = Frame.start(Exposure.of(image, ivar), frame.psf, StampSizes())
        return EXACT((f,), zero, shifts=True).sources.flux - zero.flux

    assert np.allclose(
        answer(images[0] + images[1]), answer(images[0]) + answer(images[1]), rtol=0, atol=1e-3
    )


def test_model_is_the_sum_of_its_parts(round_psf):
    """design.md, section 2: after every pass the model is what its sources and its PSF render, also a refitted one."""
    y, x = (grid.ravel() + 6.3 for grid in np.mgrid[0:70:14, 0:70:14])
    image = render(round_psf, x, y, np.linspace(500, 5000, len(x)), (70, 70))
    image += np.random.default_rng(8).normal(100, 2, image.shape).astype(np.float32)
    states = []
    fit_image(image, np.full(image.shape, 2.0), psf=round_psf, progress=states.append, stop__max_passes=3)
    assert states[-1].frames[0].psf is not round_psf
    for state in states:
        assert len(state.sources) >= 20
        assert np.array_equal(state.frames[0].model, state.frames[0].rendered(state.sources).model)


def test_windows_wider_than_the_psf(field, round_psf):
    """However wide a window is asked for, it ends with the PSF's table; 0 neighbours are as good as any number."""
    image, err, expected = field
    wide = {f"{stage}__window": 1000.0 for stage in ("measure", "detect", "centroid")}
    rows = fitted(
        image, err, round_psf, **wide, detect__reach=1000.0, measure__neighbours=0, centroid__kind="weighted"
    )
    assert np.isfinite(rows).all()
    assert np.allclose(rows[:4], expected[:4], rtol=1e-2, atol=0.05)
