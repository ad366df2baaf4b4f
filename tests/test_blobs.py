"""One star for every saturated blob."""

import dataclasses

import numpy as np
import pytest

from crowdfit import fit_image
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.scene import named_scene
from crowdfit.simulate import simulate
from crowdfit.sources import Sources
from crowdfit.stages.blobs import CLIP, RIM, blob_at, gathered, only_one, with_doubts
from crowdfit.stages.solve import PcgSolve


def exposed(saturated):
    """Return an exposure of noise with saturated pixels."""
    noise = np.random.default_rng(1).normal(size=saturated.shape)
    return Exposure.of(noise, np.where(saturated, 0.0, 1.0), saturated=saturated)


@pytest.fixture
def exposure():
    """Two blobs: 4 x 3 pixels in the middle, and one pixel in a corner."""
    saturated = np.zeros((20, 30), bool)
    saturated[8:12, 14:17] = saturated[0, 0] = True
    return exposed(saturated)


def test_blobs_have_a_rim(exposure):
    expected = np.zeros((20, 30), int)
    expected[7:13, 13:18], expected[:2, :2] = 2, 1
    np.testing.assert_array_equal(exposure.blobs, expected)
    assert not exposed(np.zeros((4, 5), bool)).blobs.any()
    assert exposure.blob_boxes == ((slice(0, 2), slice(0, 2)), (slice(7, 13), slice(13, 18)))
    assert exposed(np.zeros((4, 5), bool)).blob_boxes == ()


def test_touching_blobs_keep_their_pixels():
    """The rim of one blob does not take pixels of another."""
    saturated = np.zeros((5, 9), bool)
    saturated[2, 2] = saturated[2, 4] = True
    blobs = exposed(saturated).blobs
    assert (blobs[2, 2], blobs[2, 4]) == (1, 2)


def test_blob_at(exposure):
    x, y = np.array([15.0, 12.6, 12.4, -3.0, 29.0]), np.array([9.0, 12.4, 9.0, -9.0, 19.0])
    assert blob_at(exposure, x, y).tolist() == [2, 2, 0, 1, 0]


def test_strongest_of_a_blob(exposure):
    """Two new ones in a blob: the stronger; one with a known star: none; elsewhere all."""
    x, y = np.array([14.0, 16.0, 15.0, 25.0, 0.0]), np.array([8.0, 10.0, 11.0, 5.0, 0.0])
    strength, nobody = np.array([3.0, 9.0, 9.0, 1.0, 2.0]), Sources.empty()
    assert only_one(exposure, nobody, x, y, strength).tolist() == [False, True, False, True, True]
    known = Sources.at([15.2], [9.1], [1e5])
    assert only_one(exposure, known, x, y, strength).tolist() == [False, False, False, True, True]
    assert only_one(exposure, known, x[:0], y[:0], strength[:0]).shape == (0,)


def test_brightest_gets_the_flux_of_its_blob(exposure):
    given = Sources.at(
        [14.0, 16.0, 15.0, 25.0, 0.0], [8.0, 10.0, 11.0, 5.0, 0.0], [10.0, 70.0, -5.0, 4.0, 3.0]
    )
    left, n = gathered(exposure, given)
    assert n == 2
    assert left.x.tolist() == [16, 25, 0]
    assert left.flux.tolist() == [80, 4, 3]
    again, none = gathered(exposure, left)
    assert again is left
    assert none == 0


def test_given_positions_stay(exposure):
    """Forced photometry measures every place of the list."""
    given = Sources.at([14.0, 16.0], [8.0, 10.0], [10.0, 70.0])
    forced = given.flagged("forced", np.ones(2, bool))
    assert gathered(exposure, forced)[1] == 0
    mixed = given.flagged("forced", np.array([True, False]))
    assert gathered(exposure, mixed)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_saturated_stars_of_a_field(seed):
    """Stars with a saturated core: each found once, flux within 10 % and position within 0.15 FWHM for 90 % of them."""
    scene = dataclasses.replace(
        named_scene("dense"),
        ny=400,
        nx=400,
        n_stars=3000,
        flux_min=1000.0,
        flux_max=3e7,
        slope=0.5,
        seed=seed,
    )
    made = simulate(scene)
    result = fit_image(made.exposure)
    blobs, truth, table = made.exposure.blobs, made.truth, result.catalog
    x, y, flux = (np.asarray(table[name].value) for name in ("x", "y", "flux"))
    found, wrong, seen = blob_at(made.exposure, x, y), 0, set()
    for star in truth[np.argsort(-truth["flux"])]:
        column, row = int(round(star["x"])), int(round(star["y"]))
        inside = 4 < column < 395 and 4 < row < 395
        if not inside or not made.exposure.saturated[row, column] or blobs[row, column] in seen:
            continue
        seen.add(blobs[row, column])
        (i,) = np.flatnonzero(found == blobs[row, column])
        off = np.hypot(x[i] - star["x"], y[i] - star["y"]) / scene.fwhm
        wrong += abs(flux[i] / star["flux"] - 1) > 0.1 or off > 0.15
    assert len(seen) > 40
    assert wrong < 0.1 * len(seen)


@pytest.mark.parametrize("trail", ["both ways", "up", "with a gap"])
def test_bleed_trail(trail):
    """A saturated star with a trail of a hundred pixels: one source, where the star is."""
    scene = named_scene("demo", ny=200, nx=160, n_stars=150, flux_max=1e5, fwhm=3.5, seed=2)
    made = simulate(scene)
    light = render(made.psf, np.array([80.3]), np.array([70.6]), np.array([5e6]), made.data.shape)
    rng = np.random.default_rng(2)
    data = made.data + rng.poisson(np.maximum(light, 0)) / scene.gain
    yy, xx = np.mgrid[:200, :160]
    reach = {
        "both ways": abs(yy - 70) < 60,
        "up": (yy >= 70) & (yy < 180),
        "with a gap": (yy >= 70) & (yy % 60 > 8),
    }
    full = (data > 60000) | ((abs(xx - 80) <= 1) & reach[trail])
    ivar = np.where(full, 0, 1 / scene.noise**2)
    result = fit_image(Exposure.of(np.where(full, 0, data), ivar, saturated=full, gain=scene.gain))
    x, y, flux = (np.asarray(result.catalog[name].value) for name in ("x", "y", "flux"))
    (bright,) = np.flatnonzero(flux > 5e5)
    assert np.hypot(x[bright] - 80.3, y[bright] - 70.6) < 0.15 * 3.5
    assert flux[bright] == pytest.approx(5e6, rel=0.1)
    blob = blob_at(result.exposure, x, y)
    assert len(np.unique(blob[blob > 0])) == np.count_nonzero(blob)


class TestDoubts:
    """Light round a blob that is no wing of its star has little say in flux and place."""

    PSF = moffat(4.0, 3.0, radius=50)

    def frame_of(self, *others):
        """Return a frame of a star of 1e6 at (60, 60) on its model, with `others` (x, y, flux) beside it."""
        star = Sources.at([60.0], [60.0], [1e6])
        everyone = [*zip(*others, strict=True)] if others else [(), (), ()]
        x, y, flux = (np.append(a, b) for a, b in zip((60.0, 60.0, 1e6), everyone, strict=True))
        image = render(self.PSF, x, y, flux, (120, 120))
        full = image > 5e3
        rng = np.random.default_rng(3)
        data = rng.poisson(image) + rng.normal(0, 10, image.shape)
        exposure = Exposure.of(data, np.where(full, 0, 0.01), saturated=full, gain=1.0)
        return Frame.start(exposure, self.PSF, StampSizes()).rendered(star), star

    def test_only_where_something_else_shines(self):
        frame, _ = self.frame_of((68.0, 60.0, 5e4), (20.0, 20.0, 5e4))
        trust = with_doubts(frame).trust
        assert trust[60, 68] < 0.1
        assert trust[20, 20] == 1
        yy, xx = np.mgrid[:120, :120]
        other_side = (np.hypot(xx - 60, yy - 60) < 16) & (xx < 56) & frame.exposure.good
        assert np.median(trust[other_side]) > 0.9
        reach = np.hypot(xx - 60, yy - 60) > 10 + RIM * self.PSF.fwhm
        assert np.all(trust[reach] == 1)
        doubted = with_doubts(frame)
        np.testing.assert_allclose(doubted.fit_ivar, frame.fit_ivar * trust)

    def test_without_blobs_nothing_changes(self):
        frame, _ = self.frame_of()
        plain = frame.with_(exposure=exposed(np.zeros((120, 120), bool)))
        assert with_doubts(plain) is plain

    def test_wrong_everywhere_is_no_reason(self):
        """A star that is still 20 % too faint: what departs as its surroundings do keeps half its weight or more."""
        frame, star = self.frame_of()
        faint = frame.rendered(star.changed(flux=star.flux * 0.8))
        ratio = with_doubts(faint).trust / with_doubts(frame).trust
        yy, xx = np.mgrid[:120, :120]
        ring = (np.hypot(xx - 60, yy - 60) < 12) & frame.exposure.good
        assert np.median(ratio[ring]) > CLIP**2 / (CLIP**2 + 2 * 1.4826**2) / 2

    def test_second_star_at_the_edge_of_a_blob(self):
        """One of 4 % that nobody told: flux to 5 % and place to a twentieth of the FWHM; without doubts neither."""
        frame, star = self.frame_of((67.0, 61.0, 4e4))
        found = {}
        for name in ("doubting", "trusting"):
            here, source = frame, star
            for _ in range(8):
                one = here if name == "doubting" else here.with_(exposure=dataclasses.replace(
                    here.exposure, saturated=np.zeros_like(here.exposure.saturated)))  # fmt: skip
                fit = PcgSolve()((one,), source, shifts=True)
                source = fit.sources.changed(x=source.x + fit.step_x, y=source.y + fit.step_y)
                here = here.rendered(source)
            off = np.hypot(source.x[0] - 60, source.y[0] - 60) / self.PSF.fwhm
            found[name] = (abs(source.flux[0] / 1e6 - 1), off)
        assert found["doubting"][0] < 0.05
        assert found["doubting"][1] < 0.05
        assert found["trusting"][0] > 2 * found["doubting"][0]
        assert found["trusting"][1] > 2 * found["doubting"][1]
