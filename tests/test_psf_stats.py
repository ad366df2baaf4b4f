"""The measured columns: one normalisation, shapes, environment, errors, and when each flag is set."""

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.catalog import COLUMNS, build_catalog
from crowdfit.exposure import Exposure
from crowdfit.flags import SOURCE_FLAGS
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.psf_stats import Measure, convolved_with_disc, has_close_neighbour
from crowdfit.psf.analytic import airy, gaussian, moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Polynomial
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve

SHAPE = (90, 100)
CROWDSOURCE = [
    "x",
    "y",
    "flux",
    "dx",
    "dy",
    "dflux",
    "qf",
    "rchi2",
    "fracflux",
    "fluxlbs",
    "dfluxlbs",
    "fwhm",
    "spread_model",
    "dspread_model",
    "fluxiso",
    "xiso",
    "yiso",
    "flags",
    "sky",
    "passno",
]


@pytest.fixture(scope="module")
def psf():
    return moffat(3.2, 3.0, radius=40)


def frame_of(psf, data, sources, *, sky=0.0, ivar=1.0, saturated=None, gain=np.inf, level=1e-9):
    """Return a frame whose model is `sources`; constant noise 1 unless told otherwise."""
    exposure = Exposure.of(data, np.broadcast_to(ivar, SHAPE), saturated=saturated, gain=gain)
    frame = Frame.start(exposure, psf, StampSizes(level=level)).with_(sky=np.full(SHAPE, sky, np.float32))
    return frame.rendered(sources)


def image(psf, sources):
    return render(psf, sources.x, sources.y, sources.flux, SHAPE).astype(np.float64)


def measured(frame, sources, **options):
    """Return the columns and the flags."""
    result = Measure(**options)((frame,), sources)
    return result.columns, result.sources.flags


class TestOneNormalisation:
    """algorithm.md, section 16: crowdsource's columns are in three normalisations; here they are in one."""

    @pytest.mark.parametrize(
        "shape", [moffat(4.0, 3.0, radius=50), gaussian(2.2), airy(1.8)], ids=["moffat", "gaussian", "airy"]
    )
    @pytest.mark.parametrize("place", [(50.0, 45.0), (50.37, 44.62), (49.5, 45.5)])
    def test_noiseless_isolated_star(self, shape, place):
        """C042: flux = flux_lbs = flux_iso = truth to 1e-4, at any pixel phase; no steps are left."""
        star = Sources.at([place[0]], [place[1]], [12345.0])
        columns, _ = measured(frame_of(shape, image(shape, star) + 7.0, star, sky=7.0), star)
        for name in ("flux", "flux_lbs", "flux_iso"):
            assert columns[name][0] == pytest.approx(12345.0, rel=1e-4), name
        assert abs(columns["x_iso"][0]) < 1e-4
        assert abs(columns["y_iso"][0]) < 1e-4
        assert columns["qf"][0] == pytest.approx(1, abs=1e-6)
        assert columns["fracflux"][0] == pytest.approx(1, abs=1e-4)
        assert columns["rchi2"][0] == pytest.approx(0, abs=1e-4)
        assert columns["sky"][0] == 7.0

    def test_list_that_is_a_little_off(self, psf):
        """flux_iso and its steps undo a position error of 0.05 px, to second order: 2 % of the step."""
        star = Sources.at([50.0], [45.0], [1e4])
        wrong = star.changed(x=star.x - 0.05, y=star.y + 0.03)
        columns, _ = measured(frame_of(psf, image(psf, star), wrong), wrong)
        assert columns["x_iso"][0] == pytest.approx(0.05, rel=0.03)
        assert columns["y_iso"][0] == pytest.approx(-0.03, rel=0.03)
        assert columns["flux_iso"][0] == pytest.approx(1e4, rel=2e-3)

    def test_constant_under_the_star(self, psf):
        """C030: flux_lbs does not see a constant that the sky missed; flux_iso does."""
        star = Sources.at([50.2], [45.1], [1e4])
        columns, _ = measured(frame_of(psf, image(psf, star) + 5.0, star), star)
        assert columns["flux_lbs"][0] == pytest.approx(1e4, rel=1e-4)
        assert columns["flux_iso"][0] > 1.005e4

    def test_fwhm_is_that_of_the_psf(self):
        """1.18 (n_eff / pi)^(1/2), the FWHM for a Gaussian; pixel included, window of 2 FWHM."""
        shape = gaussian(4.0)
        star = Sources.at([50.0], [45.0], [1e3])
        columns, _ = measured(frame_of(shape, image(shape, star), star), star)
        assert columns["fwhm"][0] == pytest.approx(shape.fwhm, rel=0.01)


class TestErrors:
    """P046: what the errors are, and that they are right."""

    def test_isolated_star(self, psf):
        """flux_err = (sum P^2 W)^-1/2 with photons; flux_lbs_err is larger because a constant is free."""
        star = Sources.at([50.2], [45.1], [1e4])
        frame = frame_of(psf, image(psf, star), star, gain=2.0)
        fitted = PcgSolve()((frame,), star, shifts=False).sources
        columns, _ = measured(frame, fitted)
        stamp = render(psf, star.x, star.y, [1.0], SHAPE)
        expected = np.sum(stamp.astype(float) ** 2 / (1 + 1e4 * stamp / 2)) ** -0.5
        assert columns["flux_err_isolated"][0] == pytest.approx(expected, rel=1e-3)
        assert columns["flux_err_marginal"][0] == pytest.approx(expected, rel=1e-3)
        assert 1 < columns["flux_lbs_err"][0] / expected < 2

    @pytest.mark.parametrize("brightness", [1.0, 0.006])
    def test_close_pair_against_the_dense_inverse(self, psf, brightness):
        """C018, P046: neighbours and positions free. The 6 x 6 normal matrix of a pair, inverted with numpy.

        Of the faint pair, S/N 10 and 4, the positions are held by the prior of one sigma of the PSF.
        """
        pair = Sources.at([50.0, 52.0], [45.0, 45.6], brightness * np.array([1e4, 4e3]))
        frame = frame_of(psf, image(psf, pair), pair)
        columns, _ = measured(frame, pair)
        design = []
        for x, y, f in zip(pair.x, pair.y, pair.flux, strict=True):
            step = 1e-3
            dx = (
                render(psf, [x + step], [y], [f], SHAPE).astype(float)
                - render(psf, [x - step], [y], [f], SHAPE)
            ) / (2 * step)
            dy = (
                render(psf, [x], [y + step], [f], SHAPE).astype(float)
                - render(psf, [x], [y - step], [f], SHAPE)
            ) / (2 * step)
            design += [render(psf, [x], [y], [1.0], SHAPE).astype(float).ravel(), dx.ravel(), dy.ravel()]
        normal = np.array(design) @ np.array(design).T
        prior = (2.3548 / psf.fwhm) ** 2
        normal[[1, 2, 4, 5], [1, 2, 4, 5]] += prior
        error = np.sqrt(np.diag(np.linalg.inv(normal)))
        # finite differences of float32 renderings leave 1e-2
        np.testing.assert_allclose(columns["flux_err_marginal"], error[[0, 3]], rtol=0.01)
        np.testing.assert_allclose(columns["x_err_marginal"], error[[1, 4]], rtol=0.01)
        np.testing.assert_allclose(columns["y_err_marginal"], error[[2, 5]], rtol=0.01)
        alone = Measure()(
            (frame_of(psf, image(psf, pair.take(np.array([0]))), pair.take(np.array([0]))),),
            pair.take(np.array([0])),
        ).columns
        assert columns["flux_err_marginal"][0] > 1.1 * alone["flux_err_marginal"][0]

    def test_pulls_of_isolated_stars(self, psf):
        """Errors describe the scatter: pulls of 180 fits have width 1 and mean 0 within 4 sigma.

        One solve from the true positions with the default prior; S/N 60 and more, so the prior hardly holds.
        """
        y, x = (g.ravel() for g in np.mgrid[12 : SHAPE[0] - 10 : 22, 12 : SHAPE[1] - 10 : 22])
        pulls = []
        for seed in range(9):
            rng = np.random.default_rng(seed)
            stars = Sources.at(
                x + rng.uniform(-0.5, 0.5, len(x)),
                y + rng.uniform(-0.5, 0.5, len(x)),
                rng.uniform(500, 5000, len(x)),
            )
            data = image(psf, stars) + rng.normal(0, 1, SHAPE)
            solve = PcgSolve(tolerance=1e-3, shift_sigma=1.0)
            fit = solve((frame_of(psf, data, stars),), stars, shifts=True)
            columns = Measure()((frame_of(psf, image(psf, stars), stars),), stars).columns
            pulls.append(
                [
                    (fit.sources.flux - stars.flux) / columns["flux_err_marginal"],
                    fit.step_x / columns["x_err_marginal"],
                    fit.step_y / columns["y_err_marginal"],
                ]
            )
        for pull in np.concatenate(pulls, axis=1):
            n = len(pull)
            assert np.std(pull) == pytest.approx(1, abs=4 / np.sqrt(2 * n))
            assert abs(np.mean(pull)) < 4 / np.sqrt(n)

    @pytest.mark.parametrize("scale", [1e-6, 1e3])
    def test_errors_go_with_the_image(self, psf, scale):
        """An image in other units has fluxes and errors in those units, and the same positions and shapes."""
        pair = Sources.at([50.0, 53.0], [45.0, 45.6], [1e4, 4e3])
        data = image(psf, pair) + np.random.default_rng(1).normal(0, 1, SHAPE)
        once, _ = measured(frame_of(psf, data, pair), pair)
        bright = pair.changed(flux=pair.flux * scale)
        other, _ = measured(frame_of(psf, data * scale, bright, ivar=scale**-2), bright)
        for name in ("flux_err_marginal", "flux_lbs", "flux_lbs_err", "flux_iso"):
            np.testing.assert_allclose(other[name] / scale, once[name], rtol=1e-4, err_msg=name)
        for name in (
            "x_err",
            "rchi2",
            "fracflux",
            "spread_model",
            "spread_model_err",
            "sharpness",
            "fwhm",
            "qf",
        ):
            np.testing.assert_allclose(other[name], once[name], rtol=1e-3, atol=1e-6, err_msg=name)


class TestEnvironment:
    def test_qf_with_half_of_the_star_masked(self, psf):
        """C029: all columns right of the centre masked, that of the centre kept: what the PSF has left of it."""
        star = Sources.at([50.0], [45.0], [1e4])
        ivar = np.ones(SHAPE)
        ivar[:, 51:] = 0
        columns, _ = measured(frame_of(psf, image(psf, star), star, ivar=ivar), star)
        half = psf.window(2.0)
        stamp = psf.stamp(50, 45, 2 * half + 1)
        assert columns["qf"][0] == pytest.approx(stamp[:, : half + 1].sum() / stamp.sum(), rel=1e-5)
        assert columns["flux_iso"][0] == pytest.approx(1e4, rel=1e-3)

    def test_fracflux_of_a_pair(self, psf):
        """C030: own over all light, both weighted with the star's PSF; the numbers from the stamps themselves."""
        pair = Sources.at([48.0, 51.0], [45.0, 45.0], [1e4, 3e4])
        columns, _ = measured(frame_of(psf, image(psf, pair), pair), pair)
        half = psf.window(2.0)
        for k, other in ((0, 1), (1, 0)):
            x, y = int(pair.x[k]), int(pair.y[k])
            cut = (slice(y - half, y + half + 1), slice(x - half, x + half + 1))
            mine, its = (
                render(psf, pair.x[[j]], pair.y[[j]], pair.flux[[j]], SHAPE)[cut] for j in (k, other)
            )
            expected = np.sum(mine * mine) / np.sum((mine + its) * mine)
            assert columns["fracflux"][k] == pytest.approx(expected, rel=1e-3)
        assert columns["fracflux"][0] < 0.5 < columns["fracflux"][1]

    def test_rchi2(self, psf):
        """1 on average for noise; 26 where the residual is 5 sigma everywhere on top."""
        y, x = (g.ravel() for g in np.mgrid[12 : SHAPE[0] - 10 : 20, 12 : SHAPE[1] - 10 : 20])
        stars = Sources.at(x * 1.0, y * 1.0, np.full(len(x), 1e4))
        noise = np.random.default_rng(3).normal(0, 1, SHAPE)
        columns, _ = measured(frame_of(psf, image(psf, stars) + noise, stars), stars)
        # mean of n / n_eff independent squares
        n = len(x) * psf.n_eff
        assert columns["rchi2"].mean() == pytest.approx(1, abs=5 * np.sqrt(2 / n))
        columns, _ = measured(frame_of(psf, image(psf, stars) + noise + 5, stars), stars)
        assert columns["rchi2"].mean() == pytest.approx(26, rel=0.1)


class TestShape:
    """P025, P027: stars, blurred stars and hot pixels are told apart."""

    def one(self, psf, data, star):
        columns, _ = measured(frame_of(psf, data, star), star)
        return columns["spread_model"][0], columns["spread_model_err"][0], columns["sharpness"][0]

    @pytest.mark.parametrize("place", [(50.0, 45.0), (50.5, 45.3)])
    def test_star(self, psf, place):
        star = Sources.at([place[0]], [place[1]], [1e5])
        spread, err, sharp = self.one(psf, image(psf, star), star)
        assert abs(spread) < 1e-5
        assert err > 0
        assert abs(sharp) < 1e-3

    def test_blurred_star(self, psf):
        """A disc of scale length FWHM / 16 gives just what spread_model compares with: G^2 / GP - GP / PP."""
        star = Sources.at([50.0], [45.0], [1e5])
        wide = moffat(1.25 * 3.2, 3.0, radius=40)
        spread, err, sharp = self.one(psf, image(wide, star), star)
        assert spread > 0.004
        assert spread > 5 * err
        assert sharp < -0.1
        disc = convolved_with_disc(psf)
        spread, _, _ = self.one(psf, image(disc, star), star)
        g, p = (d.stamp(50, 45, 2 * psf.window(2.0) + 1).astype(float) for d in (disc, psf))
        assert spread == pytest.approx(
            np.sum(g * g) / np.sum(p * g) - np.sum(g * p) / np.sum(p * p), rel=0.02
        )

    def test_hot_pixel(self, psf):
        """Sharper than the PSF: a cosmic ray or a hot pixel."""
        data = np.zeros(SHAPE)
        data[45, 50] = 1e4
        star = Sources.at([50.0], [45.0], [1e4 * psf.native().max() * psf.n_eff])
        spread, err, sharp = self.one(psf, data + 1e-3, star)
        assert spread < -5 * err
        assert sharp > 0.2

    def test_error_of_spread_model(self, psf):
        """Scatter over 16 stars at S/N 100, five images: pulls 1 within 4 / sqrt(2 n)."""
        y, x = (g.ravel() for g in np.mgrid[14 : SHAPE[0] - 12 : 21, 14 : SHAPE[1] - 12 : 21])
        stars = Sources.at(x * 1.0, y * 1.0, np.full(len(x), 100 * np.sqrt(psf.n_eff)))
        pulls = []
        for seed in range(6):
            noise = np.random.default_rng(seed).normal(0, 1, SHAPE)
            columns, _ = measured(frame_of(psf, image(psf, stars) + noise, stars), stars)
            pulls.append(columns["spread_model"] / columns["spread_model_err"])
        pulls = np.concatenate(pulls)
        assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * len(pulls)))

    def test_disc_convolution(self, psf):
        """Unit sum, wider by the variance of the disc: 6 h^2 a side for an exponential of scale h = FWHM / 16.

        The second moment of a Moffat diverges, so the check is on a Gaussian: sigma^2 + 3 h^2 per axis.
        """
        shape = gaussian(4.0, radius=30)
        disc = convolved_with_disc(shape)
        assert disc.cube[0].sum() == pytest.approx(shape.cube[0].sum(), rel=1e-9)
        grid = (np.arange(shape.cube.shape[1]) - shape.cube.shape[1] // 2) / shape.oversample

        def variance(psf):
            return np.sum(psf.cube[0] * grid[None, :] ** 2) / psf.cube[0].sum()

        assert variance(disc) - variance(shape) == pytest.approx(3 * (shape.fwhm / 16) ** 2, rel=0.02)


class TestFlags:
    """Each bit that the measurement sets: set where it should be, and not elsewhere."""

    def flags_of(self, frame, sources, name, **options):
        return flags.has(measured(frame, sources, **options)[1], name).tolist()

    def test_edge(self, psf):
        half = psf.window(2.0)
        stars = Sources.at(
            [half, half - 1.0, 50.0, 50.0],
            [45.0, 45.0, SHAPE[0] - 1.0 - half, SHAPE[0] - half],
            np.full(4, 1e3),
        )
        assert self.flags_of(frame_of(psf, image(psf, stars), stars), stars, "edge") == [
            False,
            True,
            False,
            True,
        ]

    def test_near_mask(self, psf):
        half = psf.window(2.0)
        stars = Sources.at([50.0, 50.0], [20.0, 70.0], [1e3, 1e3])
        ivar = np.ones(SHAPE)
        ivar[20 + half, 50] = 0
        ivar[70 + half + 1, 50] = 0
        frame = frame_of(psf, image(psf, stars), stars, ivar=ivar)
        assert self.flags_of(frame, stars, "near_mask") == [True, False]

    def test_core_masked_and_saturated(self, psf):
        """qf below the limit; the saturated bit within a pixel of a saturated pixel."""
        stars = Sources.at([30.0, 70.0, 50.0], [45.0, 45.0, 20.0], np.full(3, 1e4))
        yy, xx = np.indices(SHAPE)
        blob = np.hypot(xx - 30, yy - 45) < 3
        hole = np.hypot(xx - 70, yy - 45) < 3
        frame = frame_of(psf, image(psf, stars), stars, ivar=~(blob | hole), saturated=blob)
        assert self.flags_of(frame, stars, "core_masked") == [True, True, False]
        assert self.flags_of(frame, stars, "saturated") == [True, False, False]
        assert self.flags_of(frame, stars, "core_masked", min_qf=0.0) == [False, False, False]

    def test_measure_failed(self, psf):
        """Nothing usable: shape columns are NaN, qf is 0, and nothing breaks."""
        stars = Sources.at([30.0, 70.0], [45.0, 45.0], [1e4, 1e4])
        ivar = np.ones(SHAPE)
        ivar[25:66, 10:51] = 0
        frame = frame_of(psf, image(psf, stars), stars, ivar=ivar)
        columns, bits = measured(frame, stars)
        assert flags.has(bits, "measure_failed").tolist() == [True, False]
        assert columns["qf"][0] == 0
        assert np.isnan(columns["flux_iso"][0])
        assert np.isnan(columns["rchi2"][0])
        assert np.isfinite(columns["flux_iso"][1])

    def test_close_pair(self, psf):
        gap = psf.fwhm
        stars = Sources.at([30.0, 30 + 0.95 * gap, 60.0, 60 + 1.05 * gap], [45.0] * 4, np.full(4, 1e4))
        assert self.flags_of(frame_of(psf, image(psf, stars), stars), stars, "close_pair") == [
            True,
            True,
            False,
            False,
        ]

    def test_negative_and_new(self, psf):
        stars = Sources.at([20.0, 50.0, 80.0], [45.0] * 3, [1e4, -50.0, 0.0]).changed(
            pass_no=np.array([0, 3, 2], np.int32)
        )
        frame = frame_of(psf, image(psf, stars) + 1e-3, stars)
        assert self.flags_of(frame, stars, "negative") == [False, True, True]
        assert self.flags_of(frame, stars, "new") == [False, True, False]

    def test_nothing_is_new_in_a_list(self, psf):
        """Stars of the user, or of one pass only, were not found in the last pass of many."""
        stars = Sources.at([20.0, 50.0], [45.0] * 2, [1e4, 1e4])
        assert self.flags_of(frame_of(psf, image(psf, stars), stars), stars, "new") == [False, False]

    def test_truncated(self):
        """The table of the PSF ends at 8 px, where only the bright star is still above 0.1 sigma."""
        short = moffat(3.2, 3.0, radius=8)
        stars = Sources.at([25.0, 70.0], [45.0] * 2, [1e6, 1e2])
        frame = frame_of(short, image(short, stars), stars, level=0.1)
        assert self.flags_of(frame, stars, "truncated") == [True, False]

    def test_flags_of_the_fit_are_kept(self, psf):
        """Bits that other stages set come through."""
        other = ("step_limit", "not_moved", "merged", "not_converged", "forced", "psf_star")
        star = Sources.at([50.0], [45.0], [1e4])
        for name in other:
            star = star.flagged(name, np.ones(1, bool))
        _, bits = measured(frame_of(psf, image(psf, star), star, level=0.1), star)
        assert set(flags.decode(int(bits[0]))) == set(other)
        known = {flag.name for flag in SOURCE_FLAGS}
        mine = {
            "edge",
            "near_mask",
            "core_masked",
            "saturated",
            "measure_failed",
            "close_pair",
            "negative",
            "new",
            "truncated",
        }
        assert set(other) | mine <= known


def test_every_column_of_crowdsource(psf):
    """C034, C042: all its columns are there, under their alias; dq comes with the catalogue."""
    stars = Sources.at([30.0, 60.0], [45.0, 45.0], [1e4, 1e4])
    frame = frame_of(psf, image(psf, stars), stars)
    table = build_catalog(measured(frame, stars)[0], frame.exposure)
    aliases = {column.alias: column.name for column in COLUMNS if column.alias}
    for name in CROWDSOURCE:
        assert aliases[name] in table.colnames, name
    for swapped in ("x", "dx", "xiso"):
        assert aliases[swapped].startswith("y"), "crowdsource's x is the row"
    assert len(table) == 2


def test_empty_list(psf):
    """P103: no stars, no error, all columns."""
    columns, bits = measured(
        frame_of(psf, image(psf, Sources.at([5.0], [5.0], [1.0])), Sources.empty()), Sources.empty()
    )
    assert len(bits) == 0
    assert all(len(values) == 0 for values in columns.values())
    assert "spread_model" in columns


def test_nearest_pixel(psf):
    """Halves go up, and positions half a pixel off the image belong to its edge."""
    frame = frame_of(psf, image(psf, Sources.at([5.0], [5.0], [1.0])), Sources.empty())
    row, col = frame.nearest_pixel(Sources.at([-0.5, 0.5, 10.49, 99.4], [-0.49, 89.49, 20.5, 3.0]))
    assert col.tolist() == [0, 1, 10, 99]
    assert row.tolist() == [0, 89, 21, 3]


def test_has_close_neighbour():
    stars = Sources.at([10.0, 12.0, 40.0], [10.0, 10.0, 10.0])
    assert has_close_neighbour(stars, 2.5).tolist() == [True, True, False]
    assert has_close_neighbour(stars.take(np.array([0])), 2.5).tolist() == [False]


def test_psf_that_varies_over_the_field():
    """P034: the columns use the PSF at the star: a plane that widens to the right is wider there."""
    narrow, wide = (gaussian(w, radius=20).cube[0] for w in (2.5, 3.5))
    planes = np.stack([(narrow + wide) / 2, (wide - narrow) / 2, 0 * wide])
    varying = EPSF(planes, 4, Polynomial(1, (50.0, 45.0), (50.0, 45.0)))
    stars = Sources.at([10.0, 90.0], [45.0, 45.0], [1e4, 1e4])
    frame = frame_of(varying, image(varying, stars), stars)
    columns, _ = measured(frame, stars)
    assert columns["fwhm"][0] < 0.85 * columns["fwhm"][1]
    np.testing.assert_allclose(columns["flux_iso"], 1e4, rtol=1e-4)
