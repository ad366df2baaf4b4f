"""Copies of fields: they look like the original, and what is not known of it is said."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from crowdfit.api import fit_image
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.fits import read_exposure
from crowdfit.job import DONE, REFUSED
from crowdfit.likeness import (
    FIT_RANGE,
    Likeness,
    luminosity_function,
    read_likeness,
    simulate_like,
)
from crowdfit.psf.analytic import moffat
from crowdfit.simulate import Scene, simulate

SCENE = Scene(
    ny=360, nx=340, n_stars=3500, fwhm=3.0, slope=0.7, sky=300, sky_gradient=0.1, gain=2.0,
    flux_min=40, flux_max=3e5, saturation=4000.0, bad_pixels=5e-3, seed=11,
)  # fmt: skip


def on_image(table, shape):
    ny, nx = shape
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    return (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)


@pytest.fixture(scope="module")
def pair():
    """A field, its fit, and the copy made from it."""
    made = simulate(SCENE)
    result = fit_image(made.exposure)
    return made, result, simulate_like(Likeness.of(result), seed=5)


@pytest.fixture
def known():
    """Return a maker of likenesses whose catalogue is given, on a flat sky of known noise."""

    def make(x, y, flux, shape=(200, 220), **facts):
        data = np.random.default_rng(1).normal(50, 2, shape)
        exposure = Exposure.of(data, np.full(shape, 0.25), **facts)
        sky = np.full(shape, 50, np.float32)
        return Likeness(exposure, moffat(2.5, radius=12), sky, *(np.asarray(v, float) for v in (x, y, flux)))

    return make


def power_law(n, slope, low, high, rng):
    a, b = low**-slope, high**-slope
    return (a + rng.uniform(size=n) * (b - a)) ** (-1 / slope)


class TestLuminosityFunction:
    @pytest.mark.parametrize("slope", [0.4, 0.75, 1.3])
    def test_slope_and_its_error(self, slope):
        """Of 40 catalogues that lose their faint stars: the slope is unbiased, and scatters by its error."""
        pulls = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            flux = power_law(4000, slope, 10, 1e6, rng)
            found = flux[rng.uniform(size=4000) < 1 / (1 + (40 / flux) ** 4)]
            counts = luminosity_function(found, 30.0, 5.0)
            assert counts.limit > 60
            pulls.append((counts.slope - slope) / counts.slope_err)
        assert abs(np.mean(pulls)) < 4 / np.sqrt(40)
        assert 0.7 < np.std(pulls) < 1.3

    def test_number_below_the_limit(self):
        """As many as there are: the counts of 20,000 stars go on down to where they were cut."""
        rng = np.random.default_rng(3)
        flux = power_law(20_000, 0.8, 10, 1e6, rng)
        counts = luminosity_function(flux[flux > 60], 20.0, 10.0)
        true = np.sum(flux < counts.limit)
        assert counts.n_faint == pytest.approx(true, rel=0.1)
        assert counts.n_fitted == np.sum((flux >= counts.limit) & (flux < FIT_RANGE * counts.limit))
        assert counts.faintest == 10.0

    def test_limit_is_at_least_the_given(self):
        flux = power_law(2000, 0.8, 10, 1e6, np.random.default_rng(3))
        assert luminosity_function(flux, 500.0, 1.0).limit == 500.0

    def test_bright_end_does_not_matter(self):
        """The counts turn over far above the limit; the faint part has the slope of its own."""
        rng = np.random.default_rng(4)
        flux = np.append(power_law(5000, 1.0, 10, 3000, rng), 10 ** rng.normal(6, 0.3, 3000))
        counts = luminosity_function(flux, 30.0, 5.0)
        assert counts.slope == pytest.approx(1.0, abs=4 * counts.slope_err + 0.05)

    @pytest.mark.parametrize("n", [0, 1, 20])
    def test_few_stars_tell_nothing(self, n):
        counts = luminosity_function(power_law(n, 1.0, 100, 1e3, np.random.default_rng(1)), 50.0, 5.0)
        assert counts.n_faint == 0
        assert np.isnan(counts.slope)
        assert "too few" in counts.text

    def test_counts_that_do_not_rise(self):
        """Fewer stars towards the faint end: they go on flat, and where they turn over at once not at all."""
        rng = np.random.default_rng(2)
        rising = 100 * FIT_RANGE ** np.sqrt(rng.uniform(size=300))
        counts = luminosity_function(np.append(np.full(1000, 1.0), rising), 100.0, 1.0)
        assert 0 < counts.slope < 0.01
        per_limit = counts.n_fitted / np.log(FIT_RANGE)
        assert counts.n_faint == pytest.approx(per_limit * np.log(100), rel=0.02)
        assert luminosity_function(10 ** rng.normal(4, 0.1, 500), 10.0, 1.0).n_faint == 0


class TestCopy:
    """The copy of a simulated field against that field, each figure within its noise."""

    def test_sky(self, pair):
        """To 0.15 of the noise of a pixel: the light of the added stars, a quarter of the noise, is not counted twice.

        An error of the slope of 0.07 changes that light by a fifth, and the fitted sky has an error of its own.
        """
        made, _, copy = pair
        off = np.mean(copy.sky - made.sky)
        assert abs(off) < 0.15 * SCENE.noise
        faint = copy.truth["flux"] < copy.luminosity.limit
        light = np.sum(copy.truth["flux"][faint]) / ((SCENE.nx + 20) * (SCENE.ny + 20))
        assert light > 0.25 * SCENE.noise
        tilt = copy.sky[:, -40:].mean() - copy.sky[:, :40].mean()
        true = made.sky[:, -40:].mean() - made.sky[:, :40].mean()
        assert tilt == pytest.approx(true, abs=0.2 * SCENE.noise)

    def test_noise(self, pair):
        """Sky and detector to 2 %, the limit of reading it from ERR; the image scatters as `err` says."""
        made, _, copy = pair
        noise = np.sqrt(np.median(copy.original.variance))
        assert noise == pytest.approx(SCENE.noise, rel=0.02)
        good = copy.dq == 0
        pulls = ((copy.data - copy.sky - copy.model) / copy.err)[good]
        assert abs(pulls.std() - 1) < 4 / np.sqrt(2 * good.sum())
        assert abs(pulls.mean()) < 4 / np.sqrt(good.sum())
        assert np.median(copy.err) == pytest.approx(np.median(made.err), rel=0.03)

    def test_fwhm(self, pair):
        made, _, copy = pair
        assert copy.fwhm == pytest.approx(made.psf.fwhm, rel=0.01)

    def test_number_of_stars(self, pair):
        """Above S/N 10, within 3 sigma of two Poisson numbers and the 5 % by which blends raise the counts."""
        made, _, copy = pair
        limit = copy.original.flux_at(10)
        true, drawn = (
            np.sum(t["flux"][on_image(t, made.data.shape)] > limit) for t in (made.truth, copy.truth)
        )
        assert abs(drawn - true) < 3 * np.sqrt(2 * true) + 0.05 * true
        assert true > 300

    def test_slope(self, pair):
        _, _, copy = pair
        counts = copy.luminosity
        assert abs(counts.slope - SCENE.slope) < 3 * counts.slope_err
        assert counts.slope_err < 0.1
        flux = np.asarray(copy.truth["flux"])
        assert flux.min() >= counts.faintest
        assert counts.faintest == pytest.approx(copy.original.flux_at(1))

    def test_pixels_look_alike(self, pair):
        """Percentiles of the image agree to a fifth of the noise: level, noise and crowding together."""
        made, _, copy = pair
        for q in (1, 10, 50, 75):
            values = [np.percentile(image.data[image.dq == 0], q) for image in (made, copy)]
            assert abs(values[0] - values[1]) < 0.2 * SCENE.noise, q

    def test_fit_sees_the_same_field(self, pair):
        """The same code finds as many stars in both, within 3 sigma of two Poisson numbers, and the same noise."""
        _, result, copy = pair
        again = fit_image(copy.data, copy.err, copy.dq)
        limit = copy.original.flux_at(10)
        n = [int(np.sum(r.sources.flux > limit)) for r in (result, again)]
        assert abs(n[0] - n[1]) < 3 * np.sqrt(2 * n[0])
        # 195 stars, the bright ones saturated: 1 % from copy to copy
        assert again.psf.fwhm == pytest.approx(result.psf.fwhm, rel=0.03)
        assert again.frame.noise == pytest.approx(result.frame.noise, rel=0.02)

    def test_mask(self, pair):
        """Bad pixels stay where they are; saturated ones move with the stars."""
        made, _, copy = pair
        bad = made.dq == 1
        assert (copy.dq[bad] == 1).all()
        assert np.isnan(copy.data[bad]).all()
        moved = (copy.dq > 1) & ~bad
        assert 0.2 < moved.sum() / max(((made.dq & 2) > 0).sum(), 1) < 5
        assert (copy.data[moved] == copy.data[moved].max()).all()
        assert np.isfinite(copy.data[~bad]).all()


class TestDrawing:
    def test_seeds(self, known):
        rng = np.random.default_rng(2)
        original = known(
            rng.uniform(0, 219, 400), rng.uniform(0, 199, 400), power_law(400, 1, 200, 1e5, rng), gain=2.0
        )
        one, same, other = (simulate_like(original, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.data, same.data)
        assert not np.array_equal(one.data, other.data)
        assert not np.array_equal(one.truth["x"], other.truth["x"])

    def test_bright_stars_keep_their_fluxes(self, known):
        """Above the limit the copy has the fluxes of the catalogue, each once, at other places."""
        rng = np.random.default_rng(2)
        flux = power_law(600, 0.8, 100, 1e5, rng)
        original = known(rng.uniform(0, 219, 600), rng.uniform(0, 199, 600), flux)
        copy = simulate_like(original, 3)
        inside = on_image(copy.truth, (200, 220))
        drawn = np.asarray(copy.truth["flux"])
        limit = copy.luminosity.limit
        np.testing.assert_array_equal(np.sort(drawn[inside & (drawn >= limit)]), np.sort(flux[flux >= limit]))
        assert np.sum(inside & (drawn < limit)) == copy.luminosity.n_faint

    def test_stars_lie_around_the_image_too(self, known):
        """The margin is as dense as the image: 10 px all around."""
        rng = np.random.default_rng(2)
        x, y = rng.uniform(-0.5, 219.5, 3000), rng.uniform(-0.5, 199.5, 3000)
        copy = simulate_like(known(x, y, power_law(3000, 0.8, 100, 1e5, rng)), 3)
        outside = ~on_image(copy.truth, (200, 220))
        share = (220 * 240) / (200 * 220) - 1
        n = len(copy.truth) - outside.sum()
        assert abs(outside.sum() - share * n) < 5 * np.sqrt(share * n)
        assert np.ptp(copy.truth["x"]) < 240
        assert np.asarray(copy.truth["y"]).min() > -10.51

    def test_density_follows_the_catalogue(self, known):
        """A cluster over a field: counts in rings and in the field agree within 4 sigma, faint stars included."""
        rng = np.random.default_rng(8)
        radius = 12 * np.sqrt(-2 * np.log(rng.uniform(size=1500)))
        phi = rng.uniform(0, 2 * np.pi, 1500)
        x = np.append(70 + radius * np.cos(phi), rng.uniform(0, 219, 500))
        y = np.append(120 + radius * np.sin(phi), rng.uniform(0, 199, 500))
        flux = power_law(2000, 0.8, 200, 1e5, rng)
        copy = simulate_like(known(x, y, flux), 3)
        faint = np.asarray(copy.truth["flux"]) < copy.luminosity.limit
        assert faint.sum() > 500
        for some in (faint, ~faint):
            stars = copy.truth[some & on_image(copy.truth, (200, 220))]
            at = np.hypot(stars["x"] - 70, stars["y"] - 120)
            true = np.hypot(x - 70, y - 120)
            for low, high in ((0, 10), (10, 20), (20, 40), (60, 150)):
                expected = np.mean((true >= low) & (true < high)) * len(stars)
                found = np.sum((at >= low) & (at < high))
                assert abs(found - expected) < 4 * np.sqrt(2 * expected) + 0.1 * expected, (low, high)

    def test_few_stars_are_spread_evenly(self, known):
        copy = simulate_like(known([100.0], [100.0], [5000.0]), 2)
        assert copy.luminosity.n_faint == 0
        assert np.sum(on_image(copy.truth, (200, 220))) == 1
        np.testing.assert_array_equal(copy.sky, copy.original.sky)

    def test_no_stars_is_refused(self, known):
        with pytest.raises(InputError, match="nothing to copy"):
            simulate_like(known([50.0], [50.0], [-3.0]))

    def test_photon_noise_of_the_stars(self, known):
        """With a gain the variance of a bright pixel is that of sky plus its photons; without, of sky alone."""
        for gain, extra in ((0.5, 1.0), (np.inf, 0.0)):
            copy = simulate_like(known([110.0] * 3, [100.0] * 3, [3e4] * 3, gain=gain), 2)
            expected = np.sqrt(4 + extra * np.maximum(copy.model, 0) / 0.5)
            np.testing.assert_allclose(copy.err, expected, rtol=1e-5)
            pulls = (copy.data - copy.sky - copy.model) / copy.err
            bright = copy.model > 5
            assert bright.sum() > 100
            assert pulls[bright].std() == pytest.approx(1, abs=4 / np.sqrt(2 * bright.sum()))

    def test_flux_of_an_snr(self, known):
        """S/N 10 by hand: f / sqrt(n_eff 4 + f / gain) = 10."""
        original = known([1.0], [1.0], [1.0], gain=2.0)
        flux = original.flux_at(10)
        assert flux / np.sqrt(original.psf.n_eff * 4 + flux / 2) == pytest.approx(10, rel=1e-5)


class TestFile:
    @pytest.mark.parametrize(
        ("unit", "gain", "exptime", "card"),
        [
            ("adu", 2.0, None, 2.0),
            ("", 2.0, None, 2.0),
            ("ct/s", 60.0, 30.0, 2.0),
            ("electron", 1.0, None, None),
            ("MJy/sr", 70.0, 30.0, None),
            ("adu", np.inf, None, None),
        ],
    )
    def test_header_says_what_the_reader_needs(self, known, tmp_path, unit, gain, exptime, card):
        """Coordinates, unit, filter and saturation are read back as those of the original; the gain where it can be."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ("RA---TAN", "DEC--TAN"), (10.0, 41.0), (-1e-4, 1e-4)
        meta = {"FILTER": "F444W", "SATURATE": 3000.0, "FILE": "a.fits", "SHA256": "0"}
        meta |= {"EXPTIME": exptime} if exptime else {}
        rng = np.random.default_rng(3)
        stars = rng.uniform(5, 190, 300), rng.uniform(5, 190, 300), power_law(300, 0.7, 100, 1e6, rng)
        original = known(*stars, unit=unit, gain=gain, wcs=wcs, band="F444W", meta=meta, name="mine")
        path = simulate_like(original, 3).write(tmp_path / "copy.fits")
        with fits.open(path) as hdus:
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "DQ", "TRUTH"]
            header = hdus[0].header
            assert header["OBJECT"] == "simulated copy of mine"
            assert header.get("GAIN") == (card if card is None else pytest.approx(card))
            assert "SHA256" not in header
            assert (header["SEED"], header["NTRUTH"]) == (3, len(hdus["TRUTH"].data))
            assert header["LFFAINT"] < header["LFLIMIT"]
            saturated = hdus["DQ"].data == 3
            assert saturated.any()
        exposure = read_exposure(path)
        assert (exposure.unit, exposure.band) == (original.exposure.unit, "F444W")
        assert exposure.wcs.wcs.crval.tolist() == [10.0, 41.0]
        assert exposure.saturated[saturated].all()
        if unit == "ct/s":
            assert exposure.gain == pytest.approx(60, rel=0.25)

    def test_from_the_files_of_a_fit(self, pair, tmp_path):
        """The copy from the files of a run is that of the run, to single precision."""
        made, _, _ = pair
        path = made.write(tmp_path / "field.fits")
        result = fit_image(path, stop__max_passes=2, input__saturate=3500.0)
        result.write(tmp_path / "out")
        fresh, read = simulate_like(Likeness.of(result), 2), simulate_like(
            read_likeness(path, tmp_path / "out"), 2
        )  # fmt: skip
        np.testing.assert_allclose(read.truth["flux"], fresh.truth["flux"], rtol=1e-6)
        np.testing.assert_allclose(read.model, fresh.model, rtol=1e-4, atol=1e-3 * SCENE.noise)
        np.testing.assert_array_equal(read.original.exposure.ivar, result.exposure.ivar)

    def test_another_image_of_this_name_is_refused(self, pair, tmp_path):
        made, result, _ = pair
        path = made.write(tmp_path / "field.fits")
        named = dataclasses.replace(
            result, frame=result.frame.with_(exposure=dataclasses.replace(result.exposure, name="field"))
        )
        named.write(tmp_path / "out")
        with pytest.raises(InputError, match="another image of this name"):
            read_likeness(path, tmp_path / "out")
        with pytest.raises(InputError, match="no such file"):
            read_likeness(path, tmp_path / "elsewhere")


class TestCommand:
    @pytest.fixture
    def image(self, tmp_path):
        path = tmp_path / "field.fits"
        simulate(Scene(ny=80, nx=90, n_stars=60, fwhm=3.0, flux_min=2e3, flux_max=1e5)).write(path)
        return path

    def test_fits_and_copies(self, image, tmp_path, capsys):
        copy = tmp_path / "copy.fits"
        argv = ["simulate", str(copy), "--like", str(image), "--set", "stop.max_passes=2", "--seed", "9"]
        assert main(argv) == DONE
        said = capsys.readouterr().out
        assert said.startswith(f"{copy}: ")
        assert "stars" in said
        with fits.open(copy) as hdus:
            assert hdus["SCI"].shape == (80, 90)
            assert hdus[0].header["SEED"] == 9
        assert {path.name for path in tmp_path.iterdir()} == {"field.fits", "copy.fits"}

    def test_takes_an_earlier_fit(self, image, tmp_path, monkeypatch, capsys):
        out = tmp_path / "out"
        assert (
            main(["fit", str(image), "-o", str(out), "-q", "--no-report", "--set", "stop.max_passes=2"])
            == DONE
        )
        monkeypatch.setattr("crowdfit.api.fit_image", lambda *args, **named: pytest.fail("fitted again"))
        assert main(["simulate", str(tmp_path / "c.fits"), "--like", str(image), "--run", str(out)]) == DONE
        assert (tmp_path / "c.fits").exists()
        assert "too few" in capsys.readouterr().out

    def test_separate_planes_and_configuration_reach_the_fit(self, image, tmp_path, monkeypatch):
        seen = SimpleNamespace()

        def fit(job, path, record=None):
            seen.job, seen.path = job, path
            raise InputError("far enough")

        monkeypatch.setattr("crowdfit.job.Job.fit", fit)
        argv = ["simulate", str(tmp_path / "c.fits"), "--like", str(image), "-c", "wfpc2", "--err", "e.fits"]
        assert main([*argv, "--dq", "d.fits", "--set", "prune.nsigma=5"]) == REFUSED
        assert (seen.path, seen.job.config, seen.job.settings) == (image, "wfpc2", ["prune.nsigma=5"])
        assert (seen.job.err.name, seen.job.dq.name) == ("e.fits", "d.fits")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--like", "a.fits", "--scene", "dense"], "--scene has no meaning with --like"),
            (["--like", "a.fits", "--list"], "--list has no meaning with --like"),
            (["--like", "a.fits", "--run", "out", "-c", "k2"], "--config has no meaning with --run"),
            (["--like", "a.fits", "--run", "out", "--set", "a.b=1"], "--set has no meaning with --run"),
            (["--run", "out"], "--run needs --like IMAGE"),
            (["-c", "k2"], "--config needs --like IMAGE"),
            (["--err", "e.fits"], "--err needs --like IMAGE"),
            (["--like", "absent.fits"], "absent.fits"),
        ],
    )
    def test_options_that_do_nothing_are_refused(self, tmp_path, capsys, options, message):
        assert main(["simulate", str(tmp_path / "c.fits"), *options]) == REFUSED
        assert message in capsys.readouterr().err
        assert not (tmp_path / "c.fits").exists()
