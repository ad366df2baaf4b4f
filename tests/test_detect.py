"""Detection on the residual: what is found, what is refused, and that thresholds are in sigma."""

import re

import numpy as np
import pytest
import sep

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.detect import (
    CrowdsourceDetect,
    NoDetect,
    ScoreDetect,
    SepDetect,
    allowed_pixels,
    by_pass,
    far_from,
    filter_kernel,
    local_scatter,
    matched_filter,
    model_error,
    significance,
    softened_ivar,
    strongest_first,
)
from crowdfit.stages.solve import PcgSolve

SHAPE = (120, 140)
LATE = 5
STAGES = [
    ScoreDetect(),
    CrowdsourceDetect(),
    CrowdsourceDetect(rule="readme"),
    SepDetect(),
]
IDS = ["score", "code", "readme", "sep"]


@pytest.fixture(scope="module")
def psf():
    return moffat(3.0, 3.5, radius=24)


def grid_of_stars(flux, spacing=20, shape=SHAPE):
    """Return stars on a grid with sub-pixel phases all over, all of one flux."""
    y, x = (g.ravel() for g in np.mgrid[12 : shape[0] - 12 : spacing, 12 : shape[1] - 12 : spacing])
    rng = np.random.default_rng(7)
    return Sources.at(
        x + rng.uniform(-0.5, 0.5, len(x)), y + rng.uniform(-0.5, 0.5, len(x)), np.full(len(x), flux)
    )


def frame_of(psf, data, *, model=0.0, ivar=1.0, saturated=None, gain=np.inf):
    """Return a frame of data without sky, with a model as it stands after a pass."""
    exposure = Exposure.of(data, np.broadcast_to(ivar, np.shape(data)), saturated=saturated, gain=gain)
    start = Frame.start(exposure, psf, StampSizes(level=1e-6))
    return start.with_(model=np.broadcast_to(np.float32(model), exposure.shape).astype(np.float32))


def noisy(image, seed=1):
    return image + np.random.default_rng(seed).normal(0, 1, np.shape(image))


def unit_error(psf):
    """Return the flux error of an isolated star on pixels of noise 1."""
    return float(np.sqrt(psf.n_eff))


def distances(found, x, y):
    """Return for each (x, y) the distance to the nearest found star."""
    gaps = np.hypot(found.x[:, None] - np.atleast_1d(x), found.y[:, None] - np.atleast_1d(y))
    return gaps.min(axis=0) if len(found) else np.full(np.size(x), np.inf)


class TestMatchedFilter:
    """The significance map, and what is put into it."""

    def test_significance_is_flux_over_error(self, psf):
        """C009: at the centre of a star on white noise it is flux / isolated error (0.5 %: FWHM 1.5 of wings)."""
        stars = Sources.at([60.0], [50.0], [1000.0])
        frame = frame_of(psf, render(psf, stars.x, stars.y, stars.flux, SHAPE))
        signif = significance(frame)
        assert np.unravel_index(np.argmax(signif), SHAPE) == (50, 60)
        assert signif[50, 60] == pytest.approx(1000 / unit_error(psf), rel=5e-3)

    def test_noise_has_unit_scatter(self, psf):
        """Scatter 1 and mean 0 over n / n_eff independent values, masked and uneven weights included."""
        rng = np.random.default_rng(2)
        ivar = rng.uniform(0.2, 3, SHAPE) * (rng.uniform(size=SHAPE) > 0.1)
        data = rng.normal(0, 1, SHAPE) / np.sqrt(np.where(ivar > 0, ivar, 1))
        signif = significance(frame_of(psf, data, ivar=ivar))
        n = signif.size / (2 * psf.n_eff)
        assert np.std(signif) == pytest.approx(1, abs=5 / np.sqrt(2 * n))
        assert abs(signif.mean()) < 5 / np.sqrt(n)

    def test_no_usable_pixel_no_significance(self, psf):
        """A masked area wider than the filter is 0, not the noise of a division by nearly nothing."""
        ivar = np.ones(SHAPE, np.float32)
        ivar[30:90, 40:100] = 0
        signif = matched_filter(
            noisy(np.zeros(SHAPE)).astype(np.float32),
            ivar,
            filter_kernel(frame_of(psf, noisy(np.zeros(SHAPE)))),
        )
        assert (signif[40:80, 50:90] == 0).all()
        assert np.isfinite(signif).all()

    def test_unsampled_positions_are_seen(self):
        """A star between four pixels of an undersampled image loses what a filter half a pixel off loses."""
        sharp = gaussian(1.6)
        frame = frame_of(sharp, render(sharp, [60.5], [50.5], [1000.0], SHAPE))
        centred, between = sharp.stamp(60.0, 50.0, 21), sharp.stamp(60.49999, 50.49999, 21)
        expected = 1000 * np.sum(centred * between) / np.sqrt(np.sum(centred**2))
        assert significance(frame).max() == pytest.approx(expected, rel=5e-3)

    def test_model_error(self, psf):
        """A model wrong by 10 % rms under its bright pixels is found to be so, to 5 / sqrt(n) of itself."""
        rng = np.random.default_rng(3)
        model = np.full(SHAPE, 200.0)
        data = model * (1 + 0.1 * rng.normal(size=SHAPE)) + rng.normal(size=SHAPE)
        assert model_error(frame_of(psf, data, model=model)) == pytest.approx(0.1, rel=0.05)
        assert model_error(frame_of(psf, noisy(model), model=model), 0.003) == 0.003
        assert model_error(frame_of(psf, noisy(np.zeros(SHAPE))), 0.007) == 0.007

    def test_softened_ivar(self, psf):
        """1 / (var + (k m)^2); masked pixels stay masked (P059: detection does not see the data's photons)."""
        ivar = np.full(SHAPE, 4.0)
        ivar[3, 4] = 0
        frame = frame_of(psf, noisy(np.zeros(SHAPE)), model=10.0, ivar=ivar)
        soft = softened_ivar(frame, 0.2)
        assert soft[3, 4] == 0
        np.testing.assert_allclose(soft[5:], 1 / (0.25 + 4.0), rtol=1e-6)

    def test_peaks_are_located_to_a_tenth_of_a_pixel(self, psf):
        """C028: one Newton step on the significance map (Vakili & Hogg 2016): 0.03 px on noiseless stars."""
        stars = grid_of_stars(2000.0)
        found = ScoreDetect()(
            (frame_of(psf, render(psf, stars.x, stars.y, stars.flux, SHAPE)),), Sources.empty(), pass_no=0
        )
        assert len(found) == len(stars)
        assert distances(found, stars.x, stars.y).max() < 0.03


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
class TestEveryStage:
    """What holds for all four ways of looking."""

    def test_all_bright_stars_and_nothing_else(self, stage, psf):
        """50 sigma stars 6 FWHM apart: each found once, positions within 5 sigma of the noise, fluxes too.

        Position error of a star is 0.6 FWHM / S/N for profiles of this kind.
        """
        flux = 50 * unit_error(psf)
        stars = grid_of_stars(flux)
        found = stage(
            (frame_of(psf, noisy(render(psf, stars.x, stars.y, stars.flux, SHAPE))),),
            Sources.empty(),
            pass_no=0,
        )
        assert len(found) == len(stars)
        assert distances(found, stars.x, stars.y).max() < 0.05 + 5 * 0.6 * 3.0 / 50
        assert np.median(found.flux) == pytest.approx(flux, rel=0.06)
        assert (found.pass_no == 0).all()

    def test_thresholds_are_in_sigma(self, stage, psf):
        """The same image in other units gives the same stars (P023; nothing in counts)."""
        stars = grid_of_stars(12 * unit_error(psf), spacing=9)
        data = noisy(render(psf, stars.x, stars.y, stars.flux, SHAPE))
        reference = stage((frame_of(psf, data),), Sources.empty(), pass_no=0)
        assert len(reference) > 10
        for unit in (1e-3, 1e6):
            found = stage((frame_of(psf, data * unit, ivar=unit**-2),), Sources.empty(), pass_no=0)
            assert len(found) == len(reference)
            np.testing.assert_allclose(found.x, reference.x, atol=1e-3)
            np.testing.assert_allclose(found.y, reference.y, atol=1e-3)
            np.testing.assert_allclose(found.flux, unit * reference.flux, rtol=1e-3)

    def test_schedule(self, stage, psf):
        """C003, P022: bright peaks first; the threshold falls with the pass and its last value repeats."""
        stage = type(stage)(
            **{"nsigma": (20.0, 6.0), "kind": stage.kind}
            | ({"rule": stage.rule} if stage.kind == "crowdsource" else {})
        )
        rng = np.random.default_rng(9)
        stars = grid_of_stars(1.0)
        sigma = np.where(rng.uniform(size=len(stars)) < 0.5, 35.0, 13.0)
        image = render(psf, stars.x, stars.y, sigma * unit_error(psf), SHAPE)
        n = [len(stage((frame_of(psf, noisy(image)),), Sources.empty(), pass_no=k)) for k in (0, 1, 7)]
        assert n[0] == np.sum(sigma > 20)
        assert n[1] == n[2] == len(stars)

    def test_nothing_on_a_perfect_model(self, stage, psf):
        """No peak above threshold in noise and modelled stars, over 16,800 pixels at 5 sigma (chance 1e-3)."""
        stars = grid_of_stars(1e5, spacing=10)
        model = render(psf, stars.x, stars.y, stars.flux, SHAPE)
        found = stage((frame_of(psf, noisy(model), model=model),), stars, pass_no=0)
        assert len(found) == 0

    def test_masked_pixels_do_not_matter(self, stage, psf):
        """Values under ivar = 0 change nothing, however large."""
        stars = grid_of_stars(40 * unit_error(psf))
        data = noisy(render(psf, stars.x, stars.y, stars.flux, SHAPE))
        ivar = (np.random.default_rng(4).uniform(size=SHAPE) > 0.05).astype(float)
        found = [
            stage((frame_of(psf, np.where(ivar > 0, data, fill), ivar=ivar),), Sources.empty(), pass_no=1)
            for fill in (0.0, 1e20, -1e20)
        ]
        assert len(found[0]) >= 0.9 * len(stars)
        for other in found[1:]:
            np.testing.assert_array_equal(other.x, found[0].x)
            np.testing.assert_array_equal(other.flux, found[0].flux)

    def test_edges(self, stage, psf):
        """A star whose core is cut by the edge is found, within half a pixel of the image."""
        x, y = np.array([0.0, 139.3, 60.0, 100.0]), np.array([40.0, 60.0, -0.3, 119.4])
        data = noisy(render(psf, x, y, np.full(4, 100 * unit_error(psf)), SHAPE))
        found = stage((frame_of(psf, data),), Sources.empty(), pass_no=0)
        assert distances(found, x, y).max() < 1.0
        assert len(found) == 4

    def test_empty_image(self, stage, psf):
        """C003: noise alone has no star at 10 sigma; the list is empty and typed."""
        found = stage((frame_of(psf, noisy(np.zeros(SHAPE))),), Sources.empty(), pass_no=0)
        assert len(found) == 0
        assert found.x.dtype == np.float64


class TestScore:
    """The score test of algorithm.md, section 4c."""

    late = ScoreDetect(nsigma=(5.0,), companion_nsigma=(5.0,))

    def pair(self, psf, gap, ratio, model_at=None):
        """Return a frame with a star of S/N 200 modelled alone, and a second one `gap` FWHM to its right."""
        flux, x2 = 200 * unit_error(psf), 60 + gap * psf.fwhm
        data = noisy(render(psf, [60.0, x2], [50.0, 50.0], [flux, ratio * flux], SHAPE))
        # what a fit of one star gives: all the light, at the barycentre
        total, centre = flux * (1 + ratio), (60.0 + ratio * x2) / (1 + ratio)
        known = Sources.at(
            [centre if model_at is None else model_at], [50.0], [total if model_at is None else flux]
        )
        return frame_of(psf, data, model=render(psf, known.x, known.y, known.flux, SHAPE)), known, x2

    def test_close_pair_is_split(self, psf):
        """C004: two equal stars 0.8 FWHM apart, modelled as one at their barycentre, are told apart."""
        frame, known, _ = self.pair(psf, 0.8, 1.0)
        found = self.late((frame,), known, pass_no=LATE)
        assert len(found) > 0
        assert (found.flux > 0).all()
        assert np.abs(found.x - known.x).max() < 1.2 * psf.fwhm
        assert np.abs(found.y - 50).max() < 0.7 * psf.fwhm

    def test_pair_beside_a_modelled_star(self, psf):
        """The bright one modelled at its place: its neighbour at 0.8 FWHM is one new star, on its spot."""
        frame, known, x2 = self.pair(psf, 0.8, 0.5, model_at=60.0)
        found = self.late((frame,), known, pass_no=LATE)
        assert len(found) == 1
        assert found.x[0] == pytest.approx(x2, abs=0.3)
        assert found.flux[0] == pytest.approx(100 * unit_error(psf), rel=0.25)

    def test_little_information_is_refused(self, psf):
        """A neighbour at 0.8 FWHM keeps some of its information, but not nine tenths of it."""
        frame, known, _ = self.pair(psf, 0.8, 0.5, model_at=60.0)
        for least, n in ((0.02, 1), (0.9, 0)):
            stage = ScoreDetect(nsigma=(5.0,), least_information=least)
            assert len(stage((frame,), known, pass_no=LATE)) == n

    def test_wrong_position_is_not_a_new_star(self, psf):
        """A model displaced by 0.1 px leaves a dipole of 40 sigma that the neighbour's shift explains."""
        star = Sources.at([60.0], [50.0], [1e4])
        known = star.changed(x=star.x + 0.1)
        frame = frame_of(
            psf, noisy(render(psf, star.x, star.y, star.flux, SHAPE)),
            model=render(psf, known.x, known.y, known.flux, SHAPE),
        )  # fmt: skip
        assert significance(frame).max() > 20
        assert len(self.late((frame,), known, pass_no=LATE)) == 0
        assert len(CrowdsourceDetect(blend=(0.01,), spacing=0)((frame,), known, pass_no=LATE)) > 0

    def test_wrong_flux_is_not_a_new_star(self, psf):
        """Light left on top of a known star belongs to it: V of a star at the same place is 0."""
        star = Sources.at([60.2], [50.1], [1e4])
        model = render(psf, star.x, star.y, 0.7 * star.flux, SHAPE)
        frame = frame_of(psf, noisy(model / 0.7), model=model)
        assert significance(frame).max() > 100
        assert len(self.late((frame,), star, pass_no=LATE)) == 0

    def test_rings_of_a_wrong_psf_are_no_stars(self, psf):
        """A PSF 10 % too narrow leaves a ring of many sigma around a bright star; the model error holds it back."""
        star = Sources.at([60.3], [55.2], [3e5])
        narrow = moffat(2.7, 3.5, radius=24)
        frame = frame_of(
            psf, noisy(render(psf, star.x, star.y, star.flux, SHAPE)),
            model=render(narrow, star.x, star.y, star.flux, SHAPE),
        ).with_(psf=narrow)  # fmt: skip
        naive = ScoreDetect(nsigma=(4.0,), model_error=0.0)((frame,), star, pass_no=LATE)
        held = ScoreDetect(nsigma=(4.0,))((frame,), star, pass_no=LATE)
        assert model_error(frame) > 0.01
        assert len(naive) >= 4
        assert len(held) <= len(naive) / 4

    def test_candidates_of_one_blend_wait(self, psf):
        """Of new stars closer than `spacing` only the strongest is taken in one pass."""
        x = np.array([60.0, 62.6])
        data = noisy(render(psf, x, [50.0, 50.0], np.array([200.0, 120.0]) * unit_error(psf), SHAPE))
        frame = frame_of(psf, data)
        apart = ScoreDetect(spacing=0.0)((frame,), Sources.empty(), pass_no=0)
        first = ScoreDetect(spacing=2.0)((frame,), Sources.empty(), pass_no=0)
        assert len(first) == 1
        assert x[0] - 0.5 < first.x[0] < x[1]
        assert len(apart) >= 1

    def test_nebula_needs_a_constant(self, psf):
        """P027: a smooth ridge of 8 FWHM is no star once a constant under the window is free."""
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        data = noisy(8 * np.exp(-0.5 * ((x - 70) ** 2 + (y - 60) ** 2) / 12.0**2))
        frame = frame_of(psf, data)
        assert len(ScoreDetect(nsigma=(6.0,))((frame,), Sources.empty(), pass_no=0)) > 0
        assert len(ScoreDetect(nsigma=(6.0,), local_sky=True)((frame,), Sources.empty(), pass_no=0)) == 0

    def test_threshold_follows_the_scatter(self, psf):
        """P023: where the map scatters three times more than the noise says, the threshold is three times higher."""
        data = noisy(np.zeros((200, 200)))
        data[:, 100:] *= 3
        frame = frame_of(psf, data)
        scatter = local_scatter(frame, significance(frame))
        assert np.median(scatter[:, :60]) == pytest.approx(1, abs=0.15)
        assert np.median(scatter[:, 140:]) == pytest.approx(3, rel=0.15)
        fixed = ScoreDetect(nsigma=(5.0,), purity=0.0)((frame,), Sources.empty(), pass_no=0)
        local = ScoreDetect(nsigma=(5.0,), purity=0.0, local_noise=True)((frame,), Sources.empty(), pass_no=0)
        assert np.sum(fixed.x > 110) > 20
        assert np.sum(local.x > 110) <= 2

    def test_flux_of_new_stars_is_that_of_the_joint_fit(self, psf):
        """Start fluxes are unbiased: mean over 56 stars of S/N 30 within 5 / sqrt(56) sigma plus 1 % of window."""
        flux = 30 * unit_error(psf)
        stars = grid_of_stars(flux, spacing=14)
        found = ScoreDetect()(
            (frame_of(psf, noisy(render(psf, stars.x, stars.y, stars.flux, SHAPE))),),
            Sources.empty(),
            pass_no=0,
        )
        assert len(found) == len(stars)
        assert np.mean(found.flux) / flux == pytest.approx(1, abs=0.01 + 5 / 30 / np.sqrt(len(stars)))


def read_rules(rule, psf, data, *, pass_no=LATE, known=None, **kwargs):
    """Return what crowdsource's rule finds, with the frame's model made of `known`."""
    options = {key: kwargs.pop(key) for key in list(kwargs) if key in CrowdsourceDetect.__dataclass_fields__}
    known = Sources.empty() if known is None else known
    model = render(psf, known.x, known.y, known.flux, np.shape(data))
    frame = frame_of(psf, data, model=model, **kwargs)
    return CrowdsourceDetect(rule=rule, **options)((frame,), known, pass_no=pass_no)


class TestCrowdsourceCode:
    """c > 2B or (a > B and b > B/4 and c > B)."""

    def test_blends_wait_for_a_good_model(self, psf):
        """B = 2 in the first two passes, 0.2 after: a neighbour one FWHM away is taken late only."""
        flux = 300 * unit_error(psf)
        known = Sources.at([60.0], [50.0], [flux])
        x2 = 60 + psf.fwhm
        data = noisy(render(psf, [60.0, x2], [50.0, 50.0], [flux, 0.3 * flux], SHAPE))
        assert [len(read_rules("code", psf, data, known=known, pass_no=k)) for k in (0, 1, 2, 9)] == [
            0,
            0,
            1,
            1,
        ]
        assert read_rules("code", psf, data, known=known).x[0] == pytest.approx(x2, abs=0.3)

    def test_blend_is_an_option(self, psf):
        """C015: with B = 100 nothing on top of a star is ever taken, with B = 0.01 its faint wing is."""
        flux = 300 * unit_error(psf)
        known = Sources.at([60.0], [50.0], [flux])
        data = noisy(render(psf, [60.0, 60 + 1.2 * psf.fwhm], [50.0, 50.0], [flux, 0.1 * flux], SHAPE))
        assert len(read_rules("code", psf, data, known=known, blend=(100.0,))) == 0
        assert len(read_rules("code", psf, data, known=known, blend=(0.01,))) > 0

    def test_peaks_on_sources_are_dropped(self, psf):
        """Closer than `spacing` to a source nothing is added, whatever the residual says."""
        known = Sources.at([60.0], [50.0], [1e-3])
        data = noisy(render(psf, [60.5], [50.0], [50 * unit_error(psf)], SHAPE))
        assert len(read_rules("code", psf, data, known=known)) == 0
        assert len(read_rules("code", psf, data, known=known, spacing=0.0)) == 1


class TestReadmeRules:
    """C008-C015 one by one."""

    def bright(self, psf, pixel_snr, x=60.0, y=50.0):
        """Return the image of a star whose central pixel has this S/N."""
        return render(psf, [x], [y], [pixel_snr / psf.native()[psf.radius, psf.radius]], SHAPE).astype(float)

    def test_bright_peak_at_a_mask_edge_is_refused(self, psf):
        """C008, C010: S/N > 5/0.3 in one pixel is bright; next to a masked pixel it is refused."""
        image = noisy(self.bright(psf, 100.0))
        masked = np.ones(SHAPE)
        masked[48:53, 61] = 0
        assert len(read_rules("readme", psf, image)) == 1
        assert len(read_rules("readme", psf, image, ivar=masked)) == 0
        far = np.ones(SHAPE)
        far[48:53, 66] = 0
        assert len(read_rules("readme", psf, image, ivar=far)) == 1

    def test_faint_peak_at_a_mask_edge_is_kept(self, psf):
        """C009, C011: significance > 5 with a pixel below 5/0.3 is faint, and a mask edge does not matter."""
        image = self.bright(psf, 10.0)
        masked = np.ones(SHAPE)
        masked[48:53, 61] = 0
        assert significance(frame_of(psf, image)).max() > 10
        assert len(read_rules("readme", psf, image, ivar=masked)) == 1

    def test_bright_limit_is_an_option(self, psf):
        """C015: raise it and the same peak at a mask edge counts as faint."""
        masked = np.ones(SHAPE)
        masked[48:53, 61] = 0
        assert len(read_rules("readme", psf, noisy(self.bright(psf, 100.0)), ivar=masked, bright=1000.0)) == 1

    def test_saturated_centres(self, psf):
        """C012: a masked saturated blob may have a star in the first pass, later only at its edge."""
        star = self.bright(psf, 1000.0)
        saturated = star > 150
        grown = np.hypot(*np.mgrid[-50:70, -60:80]) < 3.2
        found = [
            read_rules(
                "readme",
                psf,
                noisy(np.where(grown, 0, star)),
                ivar=~grown,
                saturated=grown | saturated,
                pass_no=k,
            )
            for k in (0, LATE)
        ]
        inside = [np.sum(np.hypot(f.x - 60, f.y - 50) < 2.5) for f in found]
        assert inside == [1, 0]

    @pytest.mark.parametrize("factor", ["least_significance_ratio", "least_flux_ratio", "least_pixel_ratio"])
    def test_factors_on_a_known_star(self, psf, factor):
        """C013, C014, C015: each factor on its own refuses a neighbour that all of them let pass."""
        flux = 300 * unit_error(psf)
        known = Sources.at([60.0], [50.0], [flux])
        data = noisy(render(psf, [60.0, 60 + 1.3 * psf.fwhm], [50.0, 50.0], [flux, 0.8 * flux], SHAPE))
        open_ = {"least_significance_ratio": 0.0, "least_flux_ratio": 0.0, "least_pixel_ratio": 0.0}
        assert len(read_rules("readme", psf, data, known=known, **open_)) >= 1
        assert len(read_rules("readme", psf, data, known=known, **open_ | {factor: 30.0})) == 0


class TestSep:
    """P024: SEP's own extraction."""

    def test_pairs_are_deblended(self, psf):
        """Two stars 2 FWHM apart are two, and one without deblending."""
        x2 = 60 + 2 * psf.fwhm
        frame = frame_of(
            psf,
            noisy(render(psf, [60.0, x2], [50.0, 50.0], np.array([300.0, 200.0]) * unit_error(psf), SHAPE)),
        )
        found = SepDetect()((frame,), Sources.empty(), pass_no=0)
        assert distances(found, [60.0, x2], [50.0, 50.0]).max() < 0.4
        assert len(SepDetect(deblend_contrast=1.0)((frame,), Sources.empty(), pass_no=0)) == 1

    def test_known_sources_are_left_alone(self, psf):
        known = Sources.at([60.0], [50.0], [0.0])
        frame = frame_of(psf, noisy(render(psf, [60.5], [50.0], [100 * unit_error(psf)], SHAPE)))
        assert len(SepDetect()((frame,), known, pass_no=0)) == 0

    def test_overflow_is_a_clear_message(self, psf, monkeypatch):
        """SEP's buffers overflow in crowded frames: the message names the image and the settings to raise."""
        crowded = np.random.default_rng(1).normal(0, 1, (700, 700)) + 50
        frame = frame_of(psf, crowded)
        real, before = sep.set_extract_pixstack, sep.get_extract_pixstack()
        monkeypatch.setattr("crowdfit.stages.detect.sep.set_extract_pixstack", lambda n: real(2000))
        try:
            with pytest.raises(
                InputError, match=re.escape("image: SEP ran out of room") + ".*detect.pixel_stack"
            ) as caught:
                SepDetect(min_area=1)((frame,), Sources.empty(), pass_no=0)
        finally:
            real(before)
        assert "\n" not in str(caught.value)

    def test_other_failures_are_not_hidden(self, psf, monkeypatch):
        def fail(*args, **kwargs):
            raise ValueError("something else")

        monkeypatch.setattr("crowdfit.stages.detect.sep.extract", fail)
        with pytest.raises(ValueError, match="something else"):
            SepDetect()((frame_of(psf, noisy(np.zeros(SHAPE))),), Sources.empty(), pass_no=0)


def test_none_finds_nothing(psf):
    """Forced photometry."""
    assert len(NoDetect()((frame_of(psf, 1e6 * noisy(np.zeros(SHAPE))),), Sources.empty(), pass_no=0)) == 0


class TestAllowedPixels:
    """Where a peak may lie."""

    def test_everywhere_on_a_clean_image(self, psf):
        assert allowed_pixels(frame_of(psf, noisy(np.zeros(SHAPE))), LATE).all()

    def test_dead_column_but_not_a_hole(self, psf):
        """A star on a dead column is seen on both sides of it; in the middle of a hole nothing is."""
        ivar = np.ones(SHAPE)
        ivar[:, 30] = 0
        ivar[40:60, 80:100] = 0
        allowed = allowed_pixels(frame_of(psf, noisy(np.zeros(SHAPE)), ivar=ivar), LATE)
        assert allowed[:, 30].all()
        assert not allowed[45:55, 85:95].any()
        assert allowed[ivar > 0].all()

    def test_saturated_blobs_in_the_first_pass_only(self, psf):
        ivar, saturated = np.ones(SHAPE), np.zeros(SHAPE, bool)
        saturated[40:60, 80:100] = True
        frame = frame_of(psf, noisy(np.zeros(SHAPE)), ivar=np.where(saturated, 0, ivar), saturated=saturated)
        assert allowed_pixels(frame, 0)[50, 90]
        assert not allowed_pixels(frame, 1)[50, 90]

    @pytest.mark.parametrize("stage", [ScoreDetect(), CrowdsourceDetect()], ids=["score", "code"])
    def test_star_on_a_dead_column(self, stage, psf):
        """P032: found once, within half a pixel, although its central column is missing."""
        ivar = np.ones(SHAPE)
        ivar[:, 60] = 0
        data = noisy(render(psf, [60.2], [50.0], [200 * unit_error(psf)], SHAPE))
        found = stage((frame_of(psf, data, ivar=ivar),), Sources.empty(), pass_no=1)
        assert distances(found, 60.2, 50.0)[0] < 0.6
        assert len(found) == 1


def test_schedule_repeats_its_last_value():
    assert [by_pass((3.0, 2.0, 1.0), k) for k in (0, 1, 2, 3, 99)] == [3, 2, 1, 1, 1]


def test_strongest_first():
    """A chain of three: the middle one, the strongest, removes both neighbours; a far one stays."""
    x, y = np.array([10.0, 12.0, 14.0, 40.0]), np.array([10.0, 10.0, 10.0, 5.0])
    keep = strongest_first(x, y, np.array([2.0, 3.0, 1.0, 0.5]), 2.5, (20, 60))
    np.testing.assert_array_equal(keep, [False, True, False, True])
    keep = strongest_first(x, y, np.array([3.0, 2.0, 1.0, 0.5]), 2.5, (20, 60))
    np.testing.assert_array_equal(keep, [True, False, True, True])
    assert strongest_first(x, y, np.ones(4), 0.0, (20, 60)).all()


def test_strongest_first_is_the_same_as_the_obvious_loop():
    """Against brute force on 400 random points, some of them off the image."""
    rng = np.random.default_rng(1)
    x, y, strength = rng.uniform(-2, 62, 400), rng.uniform(-2, 42, 400), rng.uniform(size=400)
    keep = strongest_first(x, y, strength, 3.3, (40, 60))
    expected = np.zeros(400, bool)
    for i in np.argsort(-strength):
        expected[i] = not np.any((np.hypot(x - x[i], y - y[i]) < 3.3) & expected)
    np.testing.assert_array_equal(keep, expected)


def test_far_from():
    known = Sources.at([10.0], [10.0])
    np.testing.assert_array_equal(
        far_from(known, np.array([11.0, 20.0]), np.array([10.0, 10.0]), 2.0), [False, True]
    )
    assert far_from(Sources.empty(), np.array([1.0]), np.array([1.0]), 2.0).all()
    assert len(far_from(known, np.zeros(0), np.zeros(0), 2.0)) == 0


class TestCompanions:
    """Second stars under known ones, which the residual shows as a faint pattern only."""

    def blends(self, psf, gap, share, *, total=4000.0):
        """Return a frame in which pairs along x, of this share in the right one, are fitted as one star each."""
        middle = grid_of_stars(total, spacing=30)
        shift = gap * psf.fwhm
        left, right = middle.x - share * shift, middle.x + (1 - share) * shift
        image = render(
            psf, np.append(left, right), np.append(middle.y, middle.y),
            np.append(middle.flux * (1 - share), middle.flux * share), SHAPE,
        )  # fmt: skip
        frame, stars = frame_of(psf, noisy(image)), middle
        for _ in range(8):
            fit = PcgSolve()((frame.rendered(stars),), stars, shifts=True)
            stars = fit.sources.changed(x=stars.x + fit.step_x, y=stars.y + fit.step_y)
        return frame.rendered(stars), stars, right

    def test_one_on_the_right_side(self, psf):
        frame, stars, right = self.blends(psf, 0.8, 0.3)
        found = ScoreDetect()((frame,), stars, pass_no=2)
        assert len(found) == len(stars)
        gaps = np.hypot(found.x[:, None] - stars.x, found.y[:, None] - stars.y)
        own = gaps.argmin(axis=1)
        assert sorted(own) == list(range(len(stars)))
        assert np.all(found.x - stars.x[own] > 0.2 * psf.fwhm)
        assert np.hypot(found.x - right[own], found.y - stars.y[own]).max() < 0.5 * psf.fwhm
        assert np.all((found.flux > 0) & (found.flux < 4000))

    def test_threshold(self, psf):
        """A threshold no pattern reaches finds none, nor do peaks; first passes have such a one."""
        frame, stars, _ = self.blends(psf, 0.6, 0.5)
        assert len(ScoreDetect(nsigma=(100.0,), model_error=0.005)((frame,), stars, pass_no=2)) == len(stars)
        assert len(ScoreDetect(nsigma=(100.0,), companion_nsigma=(100.0,))((frame,), stars, pass_no=2)) == 0
        assert len(ScoreDetect(nsigma=(100.0,))((frame,), stars, pass_no=0)) == 0

    def test_single_stars_have_none(self, psf):
        frame, stars, _ = self.blends(psf, 0.0, 0.5)
        assert len(ScoreDetect(nsigma=(5.0,), companion_nsigma=(4.0,))((frame,), stars, pass_no=LATE)) == 0
