"""The simulator: truth statistics, noise, defects, file structure, and its renderer against another one."""

import dataclasses
from math import log, sqrt

import numpy as np
import pytest
from astropy.io import fits
from photutils.psf import AiryDiskPSF, GaussianPSF, MoffatPSF
from scipy.integrate import quad, trapezoid
from scipy.optimize import brentq
from scipy.special import j0
from scipy.stats import kstest, truncpareto

from crowdfit.errors import ConfigError, InputError
from crowdfit.psf.analytic import moffat
from crowdfit.psf.truth import OVERSAMPLE, airy, gaussian
from crowdfit.psf.truth import moffat as moffat_profile
from crowdfit.simulate import (
    CARDS,
    DQ_BAD,
    DQ_SATURATED,
    SCENES,
    Scene,
    draw_stars,
    local_scene,
    named_scene,
    simulate,
    sky_plane,
    true_psf,
)

SMALL = Scene(ny=90, nx=110, n_stars=200, fwhm=3.0)


def stars_of(scene):
    return draw_stars(scene, *np.random.default_rng(scene.seed).spawn(2))


class TestTruth:
    """P116: the simulated truth has the statistics that were asked for."""

    def test_count_and_extent(self):
        stars = stars_of(Scene(ny=100, nx=200, n_stars=20_000, margin=10))
        assert len(stars) == 20_000
        assert -10.5 <= stars["x"].min() < -10.3
        assert 209.3 < stars["x"].max() <= 209.5
        assert kstest(stars["x"], "uniform", (-10.5, 220)).pvalue > 1e-3
        assert kstest(stars["y"], "uniform", (-10.5, 120)).pvalue > 1e-3

    @pytest.mark.parametrize("slope", [0.4, 0.75, 1.5])
    def test_luminosity_function(self, slope):
        flux = stars_of(Scene(n_stars=20_000, slope=slope, flux_min=60, flux_max=1e6, seed=2))["flux"]
        assert flux.min() >= 60
        assert flux.max() <= 1e6
        assert kstest(flux / 60, truncpareto(slope, 1e6 / 60).cdf).pvalue > 1e-3
        assert kstest(flux / 60, truncpareto(slope * 1.1, 1e6 / 60).cdf).pvalue < 1e-6

    def test_flux_does_not_follow_position(self):
        stars = stars_of(Scene(n_stars=20_000))
        for axis in ("x", "y"):
            assert abs(np.corrcoef(stars[axis], np.log(stars["flux"]))[0, 1]) < 4 / sqrt(20_000)

    def test_cluster_follows_king_profile(self):
        """Against the closed form of the number of stars inside a radius (King 1962, equation 18)."""
        cluster = {"x": 1500.0, "y": 1500.0, "n_stars": 5000, "core_radius": 60.0, "concentration": 10.0}
        stars = stars_of(Scene(ny=3001, nx=3001, n_stars=0, clusters=(cluster,)))
        assert len(stars) == 5000

        def inside(r):
            x, xt = (r / 60) ** 2, 100
            return np.log(1 + x) - 4 * (np.sqrt(1 + x) - 1) / sqrt(1 + xt) + x / (1 + xt)

        radius = np.hypot(stars["x"] - 1500, stars["y"] - 1500)
        assert kstest(radius, lambda r: inside(r) / inside(600)).pvalue > 1e-3
        assert kstest(radius, lambda r: inside(0.9 * r) / inside(600)).pvalue < 1e-6

    def test_cluster_with_an_outer_slope(self):
        """The scene `cluster`: (1 + (r/core)^2)^-2, whose number inside r is closed, cut off by the frame alone."""
        stars = stars_of(SCENES["cluster"])
        assert len(stars) == 40_000
        radius = np.hypot(stars["x"] - 511.5, stars["y"] - 511.5)
        inner = radius[radius < 500]

        def inside(r, core):
            share = (r / core) ** 2 / (1 + (r / core) ** 2)
            return share * (1 + (core / 500) ** 2)

        assert kstest(inner, lambda r: inside(r, 120)).pvalue > 1e-3
        assert kstest(inner, lambda r: inside(r, 115)).pvalue < 1e-6
        assert np.ptp(stars["x"]) > 1000

    def test_ladder_has_rungs_of_density(self):
        """Pixels per star as the names say, everything else alike."""
        rungs = [(int(name.removeprefix("ladder")), s) for name, s in SCENES.items() if "ladder" in name]
        assert [pixels for pixels, _ in rungs] == [200, 100, 50, 25, 12, 8]
        for pixels, scene in rungs:
            area = (scene.nx + 2 * scene.margin) * (scene.ny + 2 * scene.margin)
            assert area / scene.n_stars == pytest.approx(pixels, rel=1e-3)
        assert len({dataclasses.replace(scene, n_stars=1) for _, scene in rungs}) == 1

    def test_cluster_at_the_edge_keeps_its_stars_near_the_frame(self):
        cluster = {"x": 2.0, "y": 80.0, "n_stars": 700, "core_radius": 15.0}
        stars = stars_of(Scene(ny=100, nx=100, n_stars=300, margin=5, clusters=(cluster,)))
        assert len(stars) == 1000
        for axis in ("x", "y"):
            assert stars[axis].min() > -5.5
            assert stars[axis].max() < 104.5

    def test_flux_is_conserved(self):
        cluster = {"x": 128.0, "y": 128.0, "n_stars": 40, "core_radius": 2.0, "concentration": 4.0}
        made = simulate(Scene(ny=257, nx=257, n_stars=0, clusters=(cluster,), wing_fraction=0.05))
        assert made.model.sum(dtype=float) == pytest.approx(made.truth["flux"].sum(), rel=2e-3)
        assert made.model.sum(dtype=float) < made.truth["flux"].sum()


class TestImage:
    @pytest.mark.parametrize(("gain", "read_noise"), [(1.0, 6.0), (2.5, 12.0)])
    def test_noise_is_that_of_err(self, gain, read_noise):
        made = simulate(
            Scene(ny=300, nx=300, n_stars=1500, gain=gain, read_noise=read_noise, sky_gradient=0.2)
        )
        pulls = (made.data - made.sky - made.model) / made.err
        n = pulls.size
        assert abs(pulls.mean()) < 4 / sqrt(n)
        assert abs(pulls.std() - 1) < 4 / sqrt(2 * n)
        expected = (made.sky + made.model).astype(float)
        np.testing.assert_allclose(made.err**2, expected / gain + (read_noise / gain) ** 2, rtol=1e-5)

    def test_seeds(self):
        """N006: equal seeds give equal images, other seeds other ones."""
        first, again = simulate(SMALL), simulate(SMALL)
        other = simulate(dataclasses.replace(SMALL, seed=2))
        np.testing.assert_array_equal(first.data, again.data)
        assert not np.array_equal(first.data, other.data)
        assert not np.array_equal(first.truth["x"], other.truth["x"])

    def test_stars_do_not_depend_on_detector(self):
        other = simulate(dataclasses.replace(SMALL, sky=50.0, bad_pixels=0.1, gain=2.0))
        np.testing.assert_array_equal(other.truth["flux"], simulate(SMALL).truth["flux"])

    def test_sky_gradient(self):
        sky = sky_plane(Scene(ny=50, nx=80, sky=400, sky_gradient=0.05, sky_angle=0))
        assert sky.mean() == pytest.approx(400, rel=1e-6)
        np.testing.assert_allclose(sky[:, -1] - sky[:, 0], 20, rtol=1e-3)
        np.testing.assert_array_equal(sky[0], sky[-1])
        tilted = sky_plane(Scene(ny=50, nx=80, sky=400, sky_gradient=0.05, sky_angle=30))
        assert np.ptp(tilted) == pytest.approx(20, rel=1e-3)
        assert tilted[-1, -1] == tilted.max()

    def test_saturation(self):
        made = simulate(dataclasses.replace(SMALL, saturation=5000.0))
        full = (made.dq & DQ_SATURATED) > 0
        assert full.sum() > 20
        assert (made.data[full] == 5000).all()
        assert (made.data[~full] < 5000).all()
        assert (made.dq[~full] == 0).all()

    def test_bad_pixels_and_dead_columns(self):
        made = simulate(dataclasses.replace(SMALL, bad_pixels=0.03, dead_columns=3))
        bad = (made.dq & DQ_BAD) > 0
        dead = bad.all(axis=0)
        assert dead.sum() == 3
        assert (made.data[:, dead] == 0).all()
        single = bad[:, ~dead]
        n = single.size
        assert abs(single.sum() - 0.03 * n) < 4 * sqrt(0.03 * n)
        garbage = made.data[:, ~dead][single]
        assert np.isnan(garbage).sum() == pytest.approx(len(garbage) / 3, rel=0.2)
        assert (garbage == 0).sum() == pytest.approx(len(garbage) / 3, rel=0.2)
        assert (garbage == 1e8).sum() == pytest.approx(len(garbage) / 3, rel=0.2)
        assert np.isfinite(made.data[~bad]).all()

    def test_empty_field(self):
        made = simulate(dataclasses.replace(SMALL, n_stars=0))
        assert len(made.truth) == 0
        assert (made.model == 0).all()

    def test_exposure(self):
        made = simulate(dataclasses.replace(SMALL, gain=2.0, bad_pixels=0.01, saturation=5000.0))
        exposure = made.exposure
        np.testing.assert_array_equal(exposure.good, made.dq == 0)
        np.testing.assert_array_equal(exposure.saturated, (made.dq & DQ_SATURATED) > 0)
        total = 1 / exposure.fit_ivar(made.model)[exposure.good]
        np.testing.assert_allclose(total, made.err[exposure.good] ** 2, rtol=1e-4)


ALPHA = 2.1 / sqrt(2 ** (1 / 3.5) - 1)
STRETCH = sqrt(0.8)
PROFILES = {
    "gaussian": (
        {"fwhm": 2.0},
        lambda star: GaussianPSF(**star, x_fwhm=2.0, y_fwhm=2.0),
    ),
    "elliptical": (
        {"psf": "gaussian", "fwhm": 3.0, "ellipticity": 0.2, "angle": 25.0},
        lambda star: GaussianPSF(**star, x_fwhm=3.0 / STRETCH, y_fwhm=3.0 * STRETCH, theta=25.0),
    ),
    "moffat": ({"fwhm": 4.2, "beta": 3.5}, lambda star: MoffatPSF(**star, alpha=ALPHA, beta=3.5)),
    # the first zero of the Airy pattern lies at 1.1853 FWHM
    "airy": ({"fwhm": 1.95, "obscuration": 0.0}, lambda star: AiryDiskPSF(**star, radius=1.1853 * 1.95)),
}


def subsampled(star, shape, n=12):
    """Return a photutils model integrated over pixels by the midpoint rule at n x n places."""
    yy, xx = np.indices(shape, float)
    offsets = (np.arange(n) + 0.5) / n - 0.5
    return sum(star(xx + dx, yy + dy) for dx in offsets for dy in offsets) / n**2


class TestRenderer:
    """P116, P117: photutils draws the same stars."""

    @pytest.mark.parametrize("kind", PROFILES)
    def test_against_photutils(self, kind):
        fields, model = PROFILES[kind]
        scene = Scene(
            **({"psf": kind} | fields), ny=41, nx=41, n_stars=6, margin=0, flux_min=5e4, flux_max=6e4
        )
        made = simulate(scene)
        expected = sum(
            subsampled(model({"flux": flux, "x_0": x, "y_0": y}), made.model.shape)
            for x, y, flux in made.truth.iterrows("x", "y", "flux")
        )
        # the light outside the table of the PSF is inside it here, photutils leaves it where it is
        scale = np.sum(made.model * expected) / np.sum(expected**2)
        assert 0.9995 < scale < 1.02
        assert np.abs(made.model - scale * expected).max() < 1e-3 * expected.max()

    @pytest.mark.parametrize("obscuration", [0.0, 0.15, 0.4])
    def test_airy_is_the_transform_of_an_annulus(self, obscuration):
        """Against the Hankel integral over the aperture, at radii from the core to the third ring."""

        def amplitude(v):
            return 2 / (1 - obscuration**2) * quad(lambda rho: j0(v * rho) * rho, obscuration, 1)[0]

        half_width = brentq(lambda v: amplitude(v) ** 2 - 0.5, 0.5, 3)
        radius = np.array([0.0, 0.5, 1.0, 2.2, 3.1, 4.0])
        profile = airy(2.0, obscuration)(radius)
        expected = [amplitude(r * half_width) ** 2 for r in radius]
        np.testing.assert_allclose(profile / profile[0], expected, atol=1e-8)

    @pytest.mark.parametrize(
        "profile", [gaussian(2.0), moffat_profile(3.0, 2.5), airy(2.0, 0.0), airy(2.0, 0.4)]
    )
    def test_profiles_have_unit_flux(self, profile):
        radius = np.linspace(0, 400, 800_001)
        assert trapezoid(2 * np.pi * radius * profile(radius), radius) == pytest.approx(1, abs=0.006)

    @pytest.mark.parametrize("name", SCENES)
    def test_wings_end_below_the_noise(self, name):
        scene = named_scene(name, ny=32, nx=32, n_stars=1, dead_columns=0, clusters=())
        psf = simulate(scene).psf
        assert psf.envelope[-1] * scene.flux_max < 0.1 * scene.noise
        assert psf.cube[0].sum() / OVERSAMPLE**2 == pytest.approx(1)

    def test_wide_halo_holds_its_part_of_the_light(self):
        core, winged = (
            simulate(dataclasses.replace(SMALL, n_stars=1, wing_fraction=f, flux_max=1e7)).psf
            for f in (0.0, 0.2)
        )
        assert winged.cube[0].max() == pytest.approx(0.8 * core.cube[0].max(), rel=0.02)
        assert winged.fwhm == pytest.approx(core.fwhm, rel=0.03)

    def test_any_psf(self):
        psf = moffat(2.5, oversample=2, radius=12)
        made = simulate(SMALL, psf)
        assert made.psf is psf
        assert made.fwhm == pytest.approx(2.5, rel=0.1)
        assert not np.array_equal(made.model, simulate(SMALL).model)

    def test_psf_from_file(self, tmp_path):
        path = tmp_path / "psf.fits"
        fits.writeto(path, moffat(2.5, oversample=1, radius=12).native())
        made = simulate(dataclasses.replace(SMALL, psf="file", psf_file=str(path)))
        assert made.fwhm == pytest.approx(2.6, rel=0.1)
        with pytest.raises(InputError, match="absent"):
            simulate(dataclasses.replace(SMALL, psf="file", psf_file=str(tmp_path / "absent.fits")))


@pytest.fixture(scope="module")
def varying():
    """Return a scene whose PSF varies, and that PSF."""
    scene = dataclasses.replace(
        SMALL, psf="gaussian", fwhm=4.0, ellipticity=0.0, wing_fraction=0.0,
        fwhm_gradient=0.2, fwhm_angle=0.0, ellipticity_bowl=0.2,
    )  # fmt: skip
    return scene, true_psf(scene)


class TestVaryingPsf:
    """Width and shape change over the field as the scene says."""

    def test_width_rises_from_left_to_right(self, varying):
        scene, psf = varying
        on_pixels = true_psf(dataclasses.replace(scene, fwhm_gradient=0.0, ellipticity_bowl=0.0)).fwhm / 4
        for x, factor in ((0, 0.9), ((scene.nx - 1) / 2, 1.0), (scene.nx - 1, 1.1)):
            assert psf.at(x, (scene.ny - 1) / 2).fwhm == pytest.approx(4 * factor * on_pixels, rel=0.01)

    def test_corners_are_radially_elongated(self, varying):
        scene, psf = varying
        right, top = scene.nx - 1, scene.ny - 1
        for x, y, angle in ((0, 0, 45), (right, top, 45), (right, 0, -45), (0, top, -45)):
            here = psf.at(x, y)
            assert here.ellipticity == pytest.approx(0.2, abs=0.015)
            assert abs((here.position_angle - angle + 90) % 180 - 90) < 2
        assert psf.ellipticity < 0.01

    def test_sum_is_one_everywhere(self, varying):
        scene, psf = varying
        for x, y in ((0.0, 0.0), (33.3, 12.2), (scene.nx - 1.0, 5.5)):
            assert psf.stamp(x, y).sum(dtype=float) == pytest.approx(1, abs=1e-5)

    def test_nodes_hold_the_psf_of_the_place(self, varying):
        scene, psf = varying
        x, y = psf.field.places[1]
        here = true_psf(local_scene(scene, x, y))
        assert np.allclose(psf.stamp(x, y, 15), here.stamp(x, y, 15), atol=1e-4 * here.cube.max())


def test_more_stars_than_memory_holds():
    with pytest.raises(
        ConfigError, match=r"n_stars \(2147483648\) must be at most 230400, 100 for each pixel"
    ):
        named_scene("demo", nx=48, ny=48, n_stars=2**31)


REFUSED = {
    "ny": (8, "scene.ny: 8: .*16"),
    "nx": (1e9, "scene.nx: .*16384"),
    "n_stars": (-1, "scene.n_stars: -1: .*0"),
    "margin": (-1.0, "scene.margin"),
    "slope": (0, "scene.slope: 0: .*greater than 0"),
    "flux_min": (0, "scene.flux_min"),
    "flux_max": (100.0, r"flux_max \(100\) must be larger than flux_min \(150\)"),
    "clusters": (({"x": 5000, "y": 5, "n_stars": 1, "core_radius": 3},), r"\(5000, 5\) lies outside"),
    "psf": ("disc", "scene.psf: 'disc': .*'gaussian', 'moffat', 'airy' or 'file'"),
    "psf_file": ("psf.fits", "psf_file goes with psf=file"),
    "fwhm": (0.1, "scene.fwhm: 0.1: .*0.5"),
    "beta": (1.0, "scene.beta"),
    "obscuration": (0.95, "scene.obscuration"),
    "ellipticity": (0.9, "scene.ellipticity"),
    "angle": (float("nan"), "scene.angle: nan: .*finite"),
    "wing_fraction": (0.6, "scene.wing_fraction"),
    "wing_scale": (0.5, "scene.wing_scale"),
    "fwhm_gradient": (2.0, "scene.fwhm_gradient"),
    "fwhm_angle": (float("nan"), "scene.fwhm_angle"),
    "fwhm_bowl": (-0.1, "scene.fwhm_bowl"),
    "ellipticity_bowl": (0.6, "scene.ellipticity_bowl"),
    "sky": (-5.0, "scene.sky"),
    "sky_gradient": (2.5, "scene.sky_gradient"),
    "sky_angle": (float("inf"), "scene.sky_angle"),
    "gain": (0.0, "scene.gain"),
    "read_noise": (-1.0, "scene.read_noise"),
    "saturation": (0.0, "scene.saturation"),
    "stripes": (-1.0, "scene.stripes"),
    "amplifiers": (0, "scene.amplifiers: 0: .*1"),
    "bad_pixels": (1.0, "scene.bad_pixels"),
    "dead_columns": (400, r"dead_columns \(400\) must leave"),
    "seed": (True, "scene.seed: True: a number is needed"),
}


class TestScene:
    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Scene)])
    def test_bad_field_is_refused(self, field):
        """P103: every field is checked, and the message names it and what it takes."""
        value, message = REFUSED[field]
        with pytest.raises(ConfigError, match=message):
            named_scene("demo", **{field: value})

    def test_all_errors_at_once(self):
        with pytest.raises(ConfigError) as caught:
            named_scene("demo", gain=-1, fwhm="wide", stars=3)
        assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
            "scene.fwhm",
            "scene.gain",
            "scene.stars",
        ]

    def test_no_noise_is_refused(self):
        with pytest.raises(ConfigError, match="no noise"):
            named_scene("demo", sky=0, read_noise=0)

    def test_file_psf_varies_by_itself(self):
        with pytest.raises(ConfigError, match="fwhm_gradient, fwhm_bowl and ellipticity_bowl must be 0"):
            named_scene("demo", psf="file", psf_file="psf.fits", fwhm_bowl=0.1)

    def test_file_psf_needs_a_file(self):
        with pytest.raises(ConfigError, match="needs a psf_file"):
            named_scene("demo", psf="file")

    def test_cluster_fields(self):
        with pytest.raises(ConfigError, match=r"scene\.clusters\.0\.core_radius"):
            named_scene("demo", clusters=[{"x": 1, "y": 1, "n_stars": 1, "core_radius": -3}])

    def test_unknown_scene(self):
        with pytest.raises(ConfigError, match="'globular' is not one of demo, dense, sparse, undersampled"):
            named_scene("globular")

    @pytest.mark.parametrize(
        ("name", "n_stars", "slope", "fwhm", "fluxes", "sky"),
        [
            ("dense", 60_000, 0.75, 4.2, (150, 3e6), 400),
            ("sparse", 4000, 0.6, 4.2, (150, 3e6), 400),
            ("undersampled", 60_000, 0.6, 1.95, (60, 1e6), 60),
        ],
    )
    def test_benchmark_scenes_are_as_published(self, name, n_stars, slope, fwhm, fluxes, sky):
        scene = SCENES[name]
        assert (scene.ny, scene.nx, scene.margin) == (1024, 1024, 10)
        assert (scene.n_stars, scene.slope, scene.fwhm, scene.sky) == (n_stars, slope, fwhm, sky)
        assert (scene.flux_min, scene.flux_max) == fluxes
        assert (scene.gain, scene.read_noise, scene.saturation) == (1, 6, 60_000)
        assert (scene.sky_gradient, scene.bad_pixels, scene.dead_columns) == (0.05, 2e-4, 2)
        assert scene.psf == ("airy" if name == "undersampled" else "moffat")


class TestFile:
    CLUSTER = {"x": 20.0, "y": 30.0, "n_stars": 10, "core_radius": 4.0}

    def test_structure(self, tmp_path):
        """P116: truth travels in the same file; the header tells how it was made."""
        scene = dataclasses.replace(
            SMALL, saturation=5000.0, bad_pixels=0.01, clusters=(self.CLUSTER,), seed=7
        )
        made = simulate(scene)
        path = made.write(tmp_path / "scene.fits")
        with fits.open(path) as hdus:
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "DQ", "TRUTH"]
            np.testing.assert_array_equal(hdus["SCI"].data, made.data)
            np.testing.assert_array_equal(hdus["ERR"].data, made.err)
            np.testing.assert_array_equal(hdus["DQ"].data, made.dq)
            for column in ("x", "y", "flux"):
                np.testing.assert_array_equal(hdus["TRUTH"].data[column], made.truth[column])
            assert hdus["SCI"].header["BITPIX"] == -32
            header = hdus[0].header
            assert header["FWHM"] == 3.0
            assert (header["GAIN"], header["RDNOISE"], header["SATURATE"], header["SEED"]) == (1, 6, 5000, 7)
            assert header["NTRUTH"] == 210
            assert '"core_radius": 4.0' in header["CLUSTERS"]
            assert header["BUNIT"] == "adu"

    def test_every_field_has_a_card(self):
        assert set(CARDS) == {field.name for field in dataclasses.fields(Scene)}
        assert len(set(CARDS.values())) == len(CARDS)
        assert all(len(card) <= 8 for card in CARDS.values())

    def test_same_seed_same_bytes(self, tmp_path):
        paths = [simulate(SMALL).write(tmp_path / f"{i}.fits") for i in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_unwritable_folder(self, tmp_path):
        with pytest.raises(InputError, match="no_such_folder"):
            simulate(SMALL).write(tmp_path / "no_such_folder" / "scene.fits")


def test_magnitudes_of_the_noise():
    """The noise of a pixel of empty sky, by hand: 400 e- and 6 e- read noise at gain 2."""
    scene = Scene(sky=200, gain=2.0, read_noise=6.0)
    assert scene.noise == pytest.approx(sqrt(400 + 36) / 2)
    assert log(scene.noise) < log(20)
