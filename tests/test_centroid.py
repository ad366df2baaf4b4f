"""Moving stars: the true shift is found through masks, and a limit is a limit (C022-C028)."""

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.sources import Sources
from crowdfit.stages.centroid import DerivativeStep, NoStep, PeakStep, WeightedStep, move
from crowdfit.stages.solve import Fit, PcgSolve

SHAPE = (61, 61)
EXACT = PcgSolve(tolerance=1e-9, shift_sigma=50.0)
PSFS = {
    "gaussian": gaussian(3.5),
    "moffat": moffat(3.5, 3.0),
    "narrow": moffat(2.0, 3.0),
    "tilted": moffat(3.5, 3.0, ellipticity=0.3, angle=35),
}
MASKS = {
    "none": np.s_[0:0],
    "quarter": np.s_[31:, 31:],
    "half": np.s_[:, 31:],
    "columns": np.s_[:, 28:30],
}
STEPS = {
    "derivative": (DerivativeStep(), 5),
    "weighted": (WeightedStep(), 5),
    "open": (WeightedStep(open_window=1.0), 0),
    "peak": (PeakStep(), 5),
}


def shifted_star(make_frame, psf, mask, shift):
    """Return the frame of a star at the middle and a list that has it `shift` (x, y) away, with its flux."""
    hidden = np.zeros(SHAPE, bool)
    hidden[mask] = True
    truth = Sources.at([30.0], [30.0], [1e5])
    frame = make_frame(psf, truth, SHAPE, mask=hidden)
    start = truth.changed(x=truth.x - shift[0], y=truth.y - shift[1])
    return frame.rendered(start), start


def stepped(step, pass_no, frame, start):
    fit = EXACT((frame,), start, shifts=True)
    moved = step((frame,), fit, pass_no=pass_no)
    return moved.x[0] - start.x[0], moved.y[0] - start.y[0]


@pytest.mark.parametrize("psf", PSFS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("step", STEPS)
def test_shift_is_recovered(make_frame, psf, mask, step):
    """To 1 %, with part of the stamp masked: the biases of mask and window cancel, additive and multiplicative.

    The shift is small, so that what is quadratic in it stays below the 1 %.
    """
    shift = (0.01, -0.006)
    found = stepped(*STEPS[step], *shifted_star(make_frame, PSFS[psf], MASKS[mask], shift))
    assert np.hypot(found[0] - shift[0], found[1] - shift[1]) < 0.01 * np.hypot(*shift)


@pytest.mark.parametrize("mask", ["none", "quarter", "half"])
@pytest.mark.parametrize("step", STEPS)
def test_no_shift_no_step(make_frame, mask, step):
    """C025, C026: a mask moves the barycentre of a perfect star, but not the star."""
    found = stepped(*STEPS[step], *shifted_star(make_frame, PSFS["tilted"], MASKS[mask], (0, 0)))
    assert np.hypot(*found) < 1e-5


@pytest.mark.parametrize("step", STEPS)
def test_large_shifts_converge(make_frame, step):
    """Half a pixel: each step leaves a small part of what was left."""
    frame, start = shifted_star(make_frame, PSFS["moffat"], MASKS["quarter"], (0.5, -0.3))
    for _ in range(4):
        x, y = stepped(*STEPS[step], frame, start)
        start = start.changed(x=start.x + x, y=start.y + y)
        frame = frame.rendered(start)
    assert (start.x[0], start.y[0]) == pytest.approx((30, 30), abs=2e-3)


@pytest.mark.parametrize("psf", PSFS)
@pytest.mark.parametrize("mask", ["none", "quarter", "half"])
def test_peak_is_reached_in_one_pass(make_frame, psf, mask):
    """C028: the top of the convolved image is climbed to, not guessed from a slope: half a FWHM off is no matter."""
    shift = (0.4 * PSFS[psf].fwhm, -0.2 * PSFS[psf].fwhm)
    found = stepped(*STEPS["peak"], *shifted_star(make_frame, PSFS[psf], MASKS[mask], shift))
    assert found == pytest.approx(shift, abs=1e-3)


@pytest.mark.parametrize("noise", [30.0, 300.0])
def test_peak_of_isolated_stars_is_as_good_as_noise_allows(make_frame, noise):
    """C028: scatter as the joint solve predicts for stars alone, no bias, and a window of one FWHM loses little."""
    psf, n = PSFS["moffat"], 14
    grid = np.arange(n) * 25.0 + 20
    rng = np.random.default_rng(3)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, n * n) for g in np.meshgrid(grid, grid))
    truth = Sources.at(x, y, np.full(n * n, 1e4))
    start = truth.changed(x=x + rng.normal(0, 0.05, n * n), y=y + rng.normal(0, 0.05, n * n))
    frame = make_frame(psf, truth, (370, 370), noise=noise, seed=4).rendered(start)
    fit = EXACT((frame,), start, shifts=True)
    for window, most in ((2.0, 1.15), (1.0, 1.4)):
        moved = PeakStep(window=window, max_step=1.0)((frame,), fit, pass_no=0)
        pull = np.concatenate([moved.x - x, moved.y - y]) / np.tile(fit.shift_err, 2)
        assert abs(np.mean(pull)) < 4 / np.sqrt(2 * n * n)
        assert 0.85 < np.std(pull) < most


@pytest.mark.parametrize("step", ["derivative", "weighted", "peak"])
def test_neighbours_are_removed_first(make_frame, step):
    """C022: the star keeps its place beside one that is ten times brighter."""
    truth = Sources.at([30.0, 33.5], [30.0, 31.0], [1e4, 1e5])
    frame = make_frame(PSFS["moffat"], truth, SHAPE)
    start = truth.changed(x=truth.x - [0.01, 0.0])
    stage, pass_no = STEPS[step]
    frame = frame.rendered(start)
    moved = stage((frame,), EXACT((frame,), start, shifts=True), pass_no=pass_no)
    expected = truth.x if step == "derivative" else [30.0, 33.5]
    assert moved.x == pytest.approx(expected, abs=1e-3)


def test_masked_core_takes_the_derivative_step(make_frame):
    """With less than half of the PSF usable the barycentre is not trusted."""
    hidden = np.zeros(SHAPE, bool)
    hidden[28:33, 28:33] = True
    truth = Sources.at([30.0], [30.0], [1e6])
    start = truth.changed(x=truth.x - 0.05)
    frame = make_frame(PSFS["moffat"], truth, SHAPE, mask=hidden).rendered(start)
    fit = EXACT((frame,), start, shifts=True)
    derivative, *others = (
        stage((frame,), fit, pass_no=5) for stage in (DerivativeStep(), WeightedStep(), PeakStep())
    )
    assert derivative.x != start.x
    assert [other.x for other in others] == [derivative.x] * 2


class TestLimit:
    """A step limit of 2 px moves 2 px: crowdsource's moved 1 px (algorithm.md, section 9b)."""

    @pytest.fixture
    def frame(self, make_frame):
        return make_frame(PSFS["gaussian"], Sources.at([30.0], [30.0], [1.0]), SHAPE)

    def test_move(self, frame):
        stars = Sources.at([10.0, 10.0, 10.0], [20.0, 20.0, 20.0])
        moved = move(frame, stars, np.array([5.0, 3.0, 1.9]), np.array([0.0, -4.0, 0.0]), 2.0)
        assert moved.x == pytest.approx([12.0, 11.2, 11.9], abs=1e-12)
        assert moved.y == pytest.approx([20.0, 18.4, 20.0], abs=1e-12)
        assert list(flags.has(moved.flags, "step_limit")) == [True, True, False]

    @pytest.mark.parametrize("stage", [DerivativeStep(max_step=2 / PSFS["gaussian"].fwhm)])
    def test_stage(self, frame, stage):
        stars = Sources.at([10.0], [20.0], [1.0])
        fit = Fit(stars, np.array([-5.0]), np.zeros(1), np.ones(1), 1, True)
        assert stage((frame,), fit, pass_no=3).x == pytest.approx([8.0], abs=1e-9)

    def test_not_a_number_does_not_move(self, frame):
        stars = Sources.at([10.0], [20.0], [1.0])
        moved = move(frame, stars, np.array([np.nan]), np.array([np.nan]), 2.0)
        assert (moved.x, moved.y) == (10, 20)

    def test_stars_stay_near_the_image(self, frame):
        """Not farther off than one FWHM beyond the outermost pixels."""
        moved = move(
            frame, Sources.at([0.2, 60.2], [60.0, 0.0]), np.array([-5.5, 1.5]), np.array([1.5, -5.5]), 9.0
        )
        beyond = 0.499 + frame.psf.fwhm
        assert moved.x == pytest.approx([-beyond, 61.7], abs=1e-9)
        assert moved.y == pytest.approx([61.5, -beyond], abs=1e-9)


def test_forced_positions_do_not_move(make_frame):
    """The flag says so."""
    frame, start = shifted_star(make_frame, PSFS["gaussian"], MASKS["none"], (0.3, 0))
    moved = NoStep()((frame,), EXACT((frame,), start, shifts=True), pass_no=0)
    assert (moved.x, moved.y) == (start.x, start.y)
    assert flags.has(moved.flags, "not_moved").all()
