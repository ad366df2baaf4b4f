"""The PSF stage: which stars it takes, what it makes of them, and when it leaves everything as it was."""

import logging
from functools import cache

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.render import render
from crowdfit.simulate import Scene, simulate
from crowdfit.sources import Sources
from crowdfit.stages.psf_update import EmpiricalPsf, FixedPsf, core_error
from crowdfit.stages.wings import wing_change, without_anchors

SHAPE = (200, 200)
REASONS = {"faint", "masked", "bad_fit", "off_centre", "on_pedestal", "crowded", "cell_full", "surplus"}


@pytest.fixture(scope="module")
def psf():
    return moffat(3.0, 3.5, radius=24)


def stars_on_grid(spacing=24, flux=1e4, seed=3):
    """Return well separated stars of S/N 150 and more at all sub-pixel phases."""
    y, x = (g.ravel() for g in np.mgrid[16 : SHAPE[0] - 12 : spacing, 16 : SHAPE[1] - 12 : spacing])
    rng = np.random.default_rng(seed)
    x, y = x + rng.uniform(-0.5, 0.5, len(x)), y + rng.uniform(-0.5, 0.5, len(y))
    return Sources.at(x, y, flux * rng.uniform(1, 3, len(x)))


def frame_of(psf, sources, *, truth=None, extra=0.0, mask=None, seed=1):
    """Return a frame whose model is `sources` and whose data are `truth` (drawn with its own PSF), extra and noise."""
    true_psf, true_stars = truth or (psf, sources)
    data = render(true_psf, true_stars.x, true_stars.y, true_stars.flux, SHAPE) + extra
    data = data + np.random.default_rng(seed).normal(0, 1, SHAPE)
    exposure = Exposure.of(data, np.where(np.zeros(SHAPE, bool) if mask is None else mask, 0.0, 1.0))
    return Frame.start(exposure, psf, StampSizes()).rendered(sources)


def bump(x, y, height, radius):
    """Return round plateaus of one height."""
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return height * np.sum([np.hypot(xx - a, yy - b) < radius for a, b in zip(x, y, strict=True)], axis=0)


def stamps_of(psf, size):
    """Return the PSF at five sub-pixel phases, as one array."""
    phases = ((0.0, 0.0), (0.3, 0.2), (0.49, 0.49), (-0.4, 0.1), (0.25, -0.45))
    return np.array([psf.stamp(50 + x, 50 + y, size) for x, y in phases], np.float64)


class TestChoice:
    """C029, C030, C031, P033: every star that is not taken is counted under one reason."""

    stage = EmpiricalPsf()

    def chosen(self, frame, sources, **options):
        choice = EmpiricalPsf(**options).choose(frame, sources)
        assert set(choice.refused) == REASONS
        assert len(choice.index) + sum(choice.refused.values()) == len(sources)
        return choice

    def test_clean_stars_are_all_taken(self, psf):
        stars = stars_on_grid()
        choice = self.chosen(frame_of(psf, stars), stars)
        assert len(choice.index) == len(stars)
        assert choice.core_error < 0.02

    def test_faint(self, psf):
        """Below 20 sigma of the larger of fitted and isolated error; the limit is an option."""
        stars = stars_on_grid()
        stars.flux[:5] = 15 * np.sqrt(psf.n_eff)
        frame = frame_of(psf, stars)
        assert self.chosen(frame, stars).refused["faint"] == 5
        assert self.chosen(frame, stars, min_snr=10.0).refused["faint"] == 0
        assert self.chosen(frame, stars.changed(flux_err=stars.flux / 5)).refused["faint"] == len(stars)

    def test_masked(self, psf):
        """C029, C031: qf more than 3 % from 1. One pixel of the core is more, one in the wing is not."""
        stars = stars_on_grid()
        mask = np.zeros(SHAPE, bool)
        mask[np.round(stars.y[:4]).astype(int), np.round(stars.x[:4]).astype(int)] = True
        mask[np.round(stars.y[4:9]).astype(int) + 6, np.round(stars.x[4:9]).astype(int)] = True
        choice = self.chosen(frame_of(psf, stars, mask=mask), stars)
        assert choice.refused["masked"] == 4
        assert not set(choice.index) & set(range(4))
        assert self.chosen(frame_of(psf, stars, mask=mask), stars, min_qf=0.5).refused["masked"] == 0

    def test_bad_fit(self, psf):
        """Stars whose residual is many times noisier than that of the others: here a cosmic ray beside the core."""
        stars = stars_on_grid()
        x, y = np.round(stars.x[:3]), np.round(stars.y[:3])
        choice = self.chosen(frame_of(psf, stars, extra=bump(x + 2, y, 1500.0, 0.5)), stars)
        assert choice.refused["bad_fit"] == 3
        assert not set(choice.index) & set(range(3))

    def test_off_centre(self, psf):
        """C031: cleaned centroid farther than 0.12 FWHM (0.5 px at 4.2) from the position in the list."""
        stars = stars_on_grid()
        moved = stars.changed(x=stars.x + np.where(np.arange(len(stars)) < 6, 0.18 * psf.fwhm, 0.0))
        frame = frame_of(psf, stars, truth=(psf, moved))
        assert self.chosen(frame, stars, max_rchi2=1e9).refused["off_centre"] == 6
        assert self.chosen(frame, stars, max_rchi2=1e9, max_shift=0.3).refused["off_centre"] == 0

    def test_on_pedestal(self, psf):
        """C031: a plateau loses more than 80 % of its flux to a constant under the star."""
        stars = stars_on_grid()
        n = np.arange(len(stars)) < 4
        real = stars.take(~n)
        level = 0.6 * stars.flux[n] / psf.n_eff
        extra = sum(bump([x], [y], h, 11) for x, y, h in zip(stars.x[n], stars.y[n], level, strict=True))
        choice = self.chosen(
            frame_of(psf, stars, truth=(psf, real), extra=extra), stars, max_rchi2=1e9, max_shift=9.0
        )
        assert choice.refused["on_pedestal"] == 4
        assert not set(choice.index) & set(np.flatnonzero(n))

    def test_crowded(self, psf):
        """C031: a star with less than its share of the light in its stamp; six pairs 0.8 FWHM apart."""
        stars = stars_on_grid()
        pairs = stars.append(stars.take(np.arange(6)).changed(x=stars.x[:6] + 0.8 * psf.fwhm))
        choice = self.chosen(frame_of(psf, pairs), pairs)
        assert choice.refused["crowded"] == 12
        assert not set(choice.index) & {0, 1, 2, 3, 4, 5, *range(len(stars), len(pairs))}

    def test_crowded_limit_gives_way_but_not_below_one_half(self, psf):
        """Where all stars are crowded the best third is taken, unless even those are mostly neighbours."""
        stars = stars_on_grid()
        third = 0.35 * stars.flux
        loose = stars.append(stars.changed(x=stars.x + 1.1 * psf.fwhm, flux=third))
        assert 0 < len(self.chosen(frame_of(psf, loose), loose, min_fracflux=0.98).index) < len(stars)
        tight = loose.take(np.arange(len(stars)))
        for step in (0.4, -0.4):
            tight = tight.append(stars.changed(x=stars.x + step * psf.fwhm))
        shared = self.chosen(frame_of(psf, tight), tight, max_rchi2=1e9, max_shift=9.0, min_contrast=0.0)
        assert len(shared.index) == 0
        assert shared.refused["crowded"] == len(tight)

    def test_no_cell_gives_more_than_its_share(self, psf):
        """At most twice an even share from each of the cells, the brightest first, and `max_stars` in all."""
        stars = stars_on_grid(spacing=16)
        order = np.argsort(-stars.flux)
        choice = self.chosen(frame_of(psf, stars), stars, max_stars=16, cells=2)
        assert len(choice.index) == 16
        assert choice.refused["cell_full"] == 48
        assert choice.refused["surplus"] == len(stars) - 64
        cell = (stars.x[choice.index] > 100) + 2 * (stars.y[choice.index] > 100)
        assert np.bincount(cell, minlength=4).max() <= 8
        assert len(set(choice.index) & set(order[:25])) >= 12


@cache
def recovery(fwhm, kind):
    """Return the PSF after five updates from a start 12 % too wide, with truth for all else, and the true one."""
    scene = Scene(
        ny=256, nx=256, n_stars=800, fwhm=fwhm, psf=kind, beta=3.5, ellipticity=0.05 if kind == "moffat" else 0.0,
        flux_min=300, flux_max=5e5, sky=100, slope=0.6, seed=5,
    )  # fmt: skip
    field = simulate(scene)
    frame = Frame.start(field.exposure, moffat(1.12 * field.psf.fwhm, 3.0), StampSizes()).with_(sky=field.sky)
    stars = Sources.at(field.truth["x"], field.truth["y"], field.truth["flux"])
    first, seen = frame.psf, []
    for pass_no in range(5):
        frame = frame.rendered(stars)
        (frame,), _ = EmpiricalPsf()((frame,), stars, pass_no=pass_no)
        seen.append(frame)
    return first, seen, field


@pytest.mark.parametrize(("fwhm", "kind", "scale_error"), [(4.2, "moffat", 0.01), (1.95, "airy", 0.03)])
class TestRecovery:
    """C032, P043: the truth plugged into everything but the PSF."""

    def test_core_to_one_percent_of_the_peak(self, fwhm, kind, scale_error):
        """At five sub-pixel phases, out to 3 FWHM, after the best factor; 200 stars leave 0.5 % of noise."""
        first, seen, field = recovery(fwhm, kind)
        size = 2 * int(3 * fwhm) + 1
        truth, start, found = (stamps_of(psf, size) for psf in (field.psf, first, seen[-1].psf))
        errors = []
        for stamps in (start, found):
            factor = np.sum(stamps * truth) / np.sum(stamps**2)
            errors.append(np.abs(factor * stamps - truth).max() / truth.max())
        assert errors[0] > 0.1
        assert errors[1] < 0.01

    def test_normalisation(self, fwhm, kind, scale_error):
        """P036: unit sum includes wings below the noise of every star, which are extrapolated.

        Of a Moffat 1 % is at stake, of a diffraction pattern, whose wings are r^-3, 3 %.
        """
        _, seen, field = recovery(fwhm, kind)
        size = 2 * int(3 * fwhm) + 1
        truth, found = stamps_of(field.psf, size), stamps_of(seen[-1].psf, size)
        assert np.sum(found * truth) / np.sum(truth**2) == pytest.approx(1, abs=scale_error)
        assert seen[-1].psf.cube[0].sum() / seen[-1].psf.oversample ** 2 == pytest.approx(1, abs=1e-9)

    def test_width_and_shape(self, fwhm, kind, scale_error):
        """P037: FWHM to 1.5 %, ellipticity to 0.02."""
        _, seen, field = recovery(fwhm, kind)
        assert seen[-1].psf.fwhm == pytest.approx(field.psf.fwhm, rel=0.015)
        assert seen[-1].psf.ellipticity == pytest.approx(field.psf.ellipticity, abs=0.02)

    def test_centred(self, fwhm, kind, scale_error):
        """The gauge: the centroid of the core is the middle sample."""
        _, seen, _ = recovery(fwhm, kind)
        assert np.hypot(*seen[-1].psf.centroid()) < 0.01

    def test_it_settles(self, fwhm, kind, scale_error):
        """The last two updates differ by less than 1.5 % of the peak, and cores depart less and less."""
        _, seen, _ = recovery(fwhm, kind)
        size = 2 * int(3 * fwhm) + 1
        before, last = stamps_of(seen[-2].psf, size), stamps_of(seen[-1].psf, size)
        assert np.abs(last - before).max() < 0.015 * last.max()
        assert seen[-1].psf_quality.core_error < 0.3 * seen[0].psf_quality.core_error

    def test_quality_report(self, fwhm, kind, scale_error):
        """P035, P037: says how many stars, what was refused, and the shape."""
        quality = recovery(fwhm, kind)[1][-1].psf_quality
        psf = recovery(fwhm, kind)[1][-1].psf
        assert quality.n_stars > 100
        assert quality.passed == (not quality.problems)
        assert (quality.fwhm, quality.ellipticity) == (psf.fwhm, psf.ellipticity)
        assert sum(quality.refused.values()) + quality.n_stars == 800


class TestGauge:
    """A PSF and what it multiplies: only their product is seen."""

    def test_product_is_unchanged(self, psf, monkeypatch):
        """A refit that sums to 1.07 and sits 0.2, -0.1 px off becomes flux and position, not model."""
        raw = render(psf, [24 + 0.05], [24 - 0.025], [1.0], (49, 49)).astype(np.float64)
        fine = moffat(3.0, 3.5, radius=20, oversample=4).cube[0]
        shifted = np.roll(fine, (-1, 1), axis=(0, 1)) * 1.07  # a quarter of a pixel
        off = EPSF(shifted[np.newaxis], 4)
        assert raw.sum() > 0.9
        monkeypatch.setattr("crowdfit.stages.psf_update.refit", lambda *args: off)
        stars = stars_on_grid()
        before = frame_of(psf, stars)
        (after,), moved = EmpiricalPsf(max_order=0)((before,), stars, pass_no=0)
        np.testing.assert_allclose(moved.flux / stars.flux, 1.07, rtol=1e-3)
        np.testing.assert_allclose(moved.x - stars.x, 0.25, atol=2e-3)
        np.testing.assert_allclose(moved.y - stars.y, -0.25, atol=2e-3)
        asked = render(off, stars.x, stars.y, stars.flux, SHAPE)
        got = render(after.psf, moved.x, moved.y, moved.flux, SHAPE)
        # cubic interpolation of the table at four samples a pixel: 3e-3 of the peak
        assert np.abs(asked - got).max() < 3e-3 * asked.max()

    def test_damping_takes_a_share(self, psf):
        """Half of the change with damping 0.5, on the table before it is normalised."""
        stars = stars_on_grid()
        frame = frame_of(psf, stars, truth=(moffat(3.3, 3.5, radius=24), stars))
        full, half = (
            EmpiricalPsf(damping=(share,))((frame,), stars, pass_no=0)[0][0].psf for share in (1.0, 0.5)
        )
        assert full.fwhm / psf.fwhm == pytest.approx(1.095, abs=0.02)
        assert half.fwhm / psf.fwhm == pytest.approx(1 + (full.fwhm / psf.fwhm - 1) / 2, abs=0.015)

    def test_size_follows_the_brightest_star_within_bounds(self, psf):
        """At most twice what the present PSF says, never beyond 25 FWHM, never below 4."""
        stage = EmpiricalPsf()
        for flux in (3e3, 1e5, 1e7, 1e9):
            stars = stars_on_grid(flux=flux)
            frame = frame_of(psf, stars)
            half = stage._half_width(frame, stars)
            reach = psf.half_sizes(np.array([stars.flux.max()]), 0.1 * frame.noise, 1)[0]
            assert 4 * psf.fwhm - 1 <= half <= max(2 * reach, 4 * psf.fwhm)
            assert half <= np.ceil(25 * psf.fwhm)
        assert EmpiricalPsf(max_radius=5.0)._half_width(frame, stars) == np.ceil(5 * psf.fwhm)


class TestKept:
    """When the PSF stays as it is, and says why."""

    def kept(self, stage, frame, stars, pass_no, caplog, why):
        with caplog.at_level(logging.WARNING):
            (after,), same = stage((frame,), stars, pass_no=pass_no)
        assert after.psf is frame.psf
        np.testing.assert_array_equal(same.flux, stars.flux)
        np.testing.assert_array_equal(same.x, stars.x)
        assert not flags.has(same.flags, "psf_star").any()
        assert not after.psf_quality.passed
        assert why in after.psf_quality.problems[0]
        assert why in caplog.text

    def test_too_few_stars(self, psf, caplog):
        stars = stars_on_grid().take(np.arange(5)).flagged("psf_star", np.ones(5, bool))
        self.kept(EmpiricalPsf(), frame_of(psf, stars), stars, 0, caplog, "only 5 PSF stars, 8 needed")

    def test_stars_that_are_hardly_stars(self, psf, caplog):
        """The FWHM may not run away from the first guess: sources 1.5 times as wide are no PSF stars."""
        stars = stars_on_grid()
        frame = frame_of(psf, stars, truth=(moffat(4.5, 3.5, radius=24), stars))
        loose, strict = (
            EmpiricalPsf(max_rchi2=1e9, max_shift=9.0, damping=(1.0,), max_growth=most)
            for most in (2.0, 1.15)
        )
        (free,), _ = loose((frame,), stars, pass_no=1)
        assert free.psf.fwhm > 1.2 * psf.fwhm
        self.kept(strict, frame, stars, 1, caplog, "times the first guess")
        self.kept(strict, frame.with_(seen_fwhm=psf.fwhm / 1.5), stars, 1, caplog, "times the first guess")

    @pytest.mark.parametrize("given", [0.5, 2.0])
    def test_range_reaches_to_what_the_peaks_agree_on(self, psf, given, caplog):
        """A wrong guess is mended, and what lies on the way is allowed; beyond it nothing is."""
        stage = EmpiricalPsf(max_growth=1.2)
        frame = frame_of(psf, stars_on_grid()).with_(first_fwhm=given * psf.fwhm)
        assert "times the first guess" in stage._too_far(frame, psf.fwhm)
        wide = frame.with_(seen_fwhm=1.05 * psf.fwhm)
        for allowed in (given, np.sqrt(given), 1.0):
            assert not stage._too_far(wide, allowed * psf.fwhm)
        for refused in (given**-0.5, 1.3 * given) if given > 1 else (given**-0.5, given / 1.3):
            why = "agree on" if refused == given**-0.5 else "the first guess"
            assert why in stage._too_far(wide, refused * psf.fwhm)

    @pytest.mark.parametrize("pass_no", [0, 5])
    def test_outside_its_passes(self, psf, pass_no):
        stars = stars_on_grid()
        frames = (frame_of(psf, stars),)
        assert EmpiricalPsf(first_pass=1, last_pass=4)(frames, stars, pass_no=pass_no)[0] is frames

    def test_no_sources(self, psf):
        frames = (frame_of(psf, stars_on_grid()),)
        assert EmpiricalPsf()(frames, Sources.empty(), pass_no=0)[0] is frames

    def test_fixed(self, psf):
        stars = stars_on_grid()
        frames = (frame_of(psf, stars),)
        assert FixedPsf()(frames, stars, pass_no=0) == (frames, stars)


def test_used_stars_are_flagged(psf):
    """The flag psf_star is that of the last estimate, not of any earlier one."""
    stars = stars_on_grid()
    stars.flux[:5] = 50.0
    stars = stars.flagged("psf_star", np.arange(len(stars)) < 5)
    _, after = EmpiricalPsf()((frame_of(psf, stars),), stars, pass_no=0)
    used = flags.has(after.flags, "psf_star")
    assert not used[:5].any()
    assert used[5:].all()


def test_warnings_of_the_report(psf):
    """P035: few stars, a bad core, and strong undersampling each are a problem with its number."""
    stars = stars_on_grid().take(np.arange(20))
    (after,), _ = EmpiricalPsf()((frame_of(psf, stars),), stars, pass_no=0)
    assert [p.split()[0] for p in after.psf_quality.problems] == ["20"]
    sharp = moffat(0.6, 3.5, radius=12)
    report = EmpiricalPsf()._quality(
        frame_of(sharp, stars), EmpiricalPsf().choose(frame_of(sharp, stars), stars), sharp
    )
    assert any("undersampled" in p for p in report.problems)
    wrong = frame_of(psf, stars, truth=(moffat(3.4, 3.5, radius=24), stars))
    assert any(
        "star cores depart" in p
        for p in EmpiricalPsf()((wrong,), stars, pass_no=0)[0][0].psf_quality.problems
    )


def test_core_error(psf):
    """Scatter of residual over model at central pixels: 10 % for fluxes that are 10 % off, 0 without stars."""
    stars = stars_on_grid(flux=1e6)
    frame = frame_of(psf, stars, truth=(psf, stars.changed(flux=1.1 * stars.flux)))
    assert core_error(frame, stars) == pytest.approx(1.4826 * 0.1, rel=0.02)
    assert core_error(frame, Sources.empty()) == 0


def test_forced_positions_stay(psf):
    """A list of the user's own is not moved when the PSF is recentred."""
    stars = stars_on_grid()
    off = stars.changed(x=stars.x + 0.05).flagged("forced", np.ones(len(stars), bool))
    _, after = EmpiricalPsf()((frame_of(psf, off, truth=(psf, stars)),), off, pass_no=0)
    np.testing.assert_array_equal(after.x, off.x)
    _, free = EmpiricalPsf()((frame_of(psf, off, truth=(psf, stars)),), stars.changed(x=off.x), pass_no=0)
    assert np.median(free.x - off.x) < -0.02


@pytest.fixture(scope="module")
def saturated_fit():
    """A wide PSF guessed too narrow in the wings, forty stars and one of 1e7 with a saturated core."""
    true = moffat(3.0, 2.3, radius=70)
    rng = np.random.default_rng(2)
    x, y = (
        g.ravel() + rng.uniform(-0.5, 0.5, (6, 7)).ravel()
        for g in np.meshgrid(np.arange(15.0, 285, 40), np.arange(15.0, 250, 42))
    )
    keep = np.hypot(x - 150, y - 130) > 25
    stars = Sources.at(
        np.append(x[keep], 150.2), np.append(y[keep], 130.4), np.append(np.full(keep.sum(), 3e4), 1e7)
    )
    image = render(true, stars.x, stars.y, stars.flux, (260, 300))
    full = image > 6e4
    data = image + rng.normal(0, 5, image.shape)
    exposure = Exposure.of(np.where(full, 0, data), np.where(full, 0, 1 / 25), saturated=full)
    frame = Frame.start(exposure, moffat(3.0, 2.9, radius=70), StampSizes()).rendered(stars)
    return true, frame, stars


class TestWings:
    """Saturated stars, whose cores are not seen, tell about the wings of the PSF."""

    def test_chosen_for_its_wings_only(self, saturated_fit):
        _, frame, stars = saturated_fit
        choice = EmpiricalPsf().choose(frame, stars)
        assert choice.wings.tolist() == [len(stars) - 1]
        assert len(stars) - 1 not in choice.index
        assert len(EmpiricalPsf(max_wings=0).choose(frame, stars).wings) == 0

    def test_wings_become_right(self, saturated_fit):
        """Faint stars do not see the wing at 6 FWHM; the saturated one does."""
        true, frame, stars = saturated_fit
        errors = []
        for most in (0, 30):
            (new,), _ = EmpiricalPsf(max_wings=most)((frame,), stars, pass_no=0)
            before, after = (psf.at(150, 130).native(71) for psf in (true, new.psf))
            radius = np.hypot(*np.meshgrid(np.arange(71) - 35, np.arange(71) - 35))
            ring = (radius > 15) & (radius < 21)
            errors.append(abs(after[ring].sum() / before[ring].sum() - 1))
        assert errors[1] < 0.1
        assert errors[1] < 0.5 * errors[0]

    def test_anchors(self, saturated_fit):
        """The pixels next to the core, which the flux comes from, have no say; those far out have theirs."""
        _, frame, stars = saturated_fit
        ivar = without_anchors(frame, stars.take(np.array([len(stars) - 1])))
        assert ivar[130, 150 + 15] == frame.fit_ivar[130, 150 + 15] > 0
        rim = np.flatnonzero(frame.exposure.good[130, 150:])[0]
        assert ivar[130, 150 + rim] == 0 < frame.fit_ivar[130, 150 + rim]

    def test_anchors_of_a_star_are_its_own_light(self, saturated_fit):
        """A brighter star within the reach of a fainter one, and one off the image, do not widen its anchor."""
        _, frame, stars = saturated_fit
        fainter = Sources.at([100.0], [130.0], [1e6])
        beside = frame.rendered(stars.append(fainter))
        ivar = without_anchors(beside, fainter)
        given_up = np.argwhere((ivar == 0) & (beside.fit_ivar > 0))
        assert 0 < np.hypot(*(given_up - [130, 100]).T).max() < 10
        np.testing.assert_array_equal(
            without_anchors(beside, Sources.at([-900.0], [9.0], [1e6])), beside.fit_ivar
        )

    def test_change_is_that_of_the_wing(self, saturated_fit):
        true, frame, stars = saturated_fit
        wings = stars.take(np.array([len(stars) - 1]))
        assert wing_change(frame, frame.psf, wings) == 0
        assert wing_change(frame, true, wings) > 1
        assert wing_change(frame, true, stars.take(np.array([], int))) == 0
