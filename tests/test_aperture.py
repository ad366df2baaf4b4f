"""Apertures on cleaned stamps: the same numbers as photutils and sep where they compute the same thing, and flags."""

import dataclasses

import numpy as np
import pytest
import sep
from astropy.stats import SigmaClip
from astropy.wcs import WCS
from photutils.aperture import (
    ApertureStats,
    CircularAnnulus,
    CircularAperture,
    EllipticalAperture,
    aperture_photometry,
)
from photutils.detection import DAOStarFinder

from crowdfit import flags
from crowdfit.catalog import build_catalog, column
from crowdfit.config import load_config
from crowdfit.errors import ConfigError, InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry import cleaned
from crowdfit.photometry.aperture import CleanedApertures, NoApertures, label
from crowdfit.photometry.psf_stats import Measure
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.render import render
from crowdfit.sources import Sources

SHAPE = (150, 160)
N = 25
NOISE = 2.0
SKY = 3.0


@pytest.fixture(scope="module")
def psf():
    return moffat(3.4, 3.0, ellipticity=0.15, angle=30, radius=30)


def crowd(n, seed=0, margin=12, flux=(2e3, 2e5)):
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(margin, size - margin, n) for size in (SHAPE[1], SHAPE[0]))
    return Sources.at(x, y, 10 ** rng.uniform(*np.log10(flux), n))


def frame_of(psf, stars, *, seed=1, offset=0.0, mask=None, extra=0.0, wcs=None, dq=None):
    """Return a frame with noise and sky whose model is the stars; `offset` is sky that the fit does not know."""
    image = render(psf, stars.x, stars.y, stars.flux, SHAPE) + SKY + offset + extra
    noise = NOISE if seed is not None else 0.0
    image = image + noise * np.random.default_rng(seed).normal(size=SHAPE)
    ivar = np.full(SHAPE, NOISE**-2)
    exposure = Exposure.of(image, ivar if mask is None else np.where(mask, 0, ivar), dq, wcs=wcs)
    frame = Frame.start(exposure, psf, StampSizes(level=1e-9)).with_(sky=np.full(SHAPE, SKY, np.float32))
    return frame.rendered(stars)


def measured(frame, stars, **options):
    """Return the columns and the corrections of stars, with their errors and flags from `Measure`."""
    stars = stars.changed(flux_err=frame.isolated_error(stars.flux))
    result = Measure()((frame,), stars)
    found = CleanedApertures(**options)((frame,), result.sources, result.columns)
    assert all(len(values) == len(stars) for values in found.columns.values())
    return found.columns, found.corrections


def cleaned_image(frame, psf, stars, k):
    """Return data - sky with all stars but one removed, for libraries that know nothing of models."""
    rest = np.arange(len(stars)) != k
    others = render(psf, stars.x[rest], stars.y[rest], stars.flux[rest], SHAPE)
    return (frame.exposure.data - SKY - others).astype(np.float64)


@pytest.fixture(scope="module")
def stars():
    return crowd(N)


@pytest.fixture(scope="module")
def frame(psf, stars):
    return frame_of(psf, stars, offset=1.5)


@pytest.fixture(scope="module")
def columns(frame, stars):
    return measured(
        frame,
        stars,
        radii=(2.5, 5, 9.3),
        unit="pix",
        annulus=(12, 20),
        annulus_unit="pix",
        ellipses=(2, 3.5),
        fractions=(0.2, 0.5, 0.9),
    )[0]


class TestSameAsLibraries:
    """Issue 5, item 8: to 1e-4 where they compute the same thing, for every star of a crowd by itself."""

    def test_local_sky_is_the_clipped_median_of_photutils(self, frame, stars, columns):
        """P051, M018: in the same ring."""
        resid = frame.resid.astype(np.float64)
        rings = CircularAnnulus(np.column_stack([stars.x, stars.y]), 12, 20)
        stats = ApertureStats(resid, rings, sigma_clip=SigmaClip(3.5, maxiters=5), sum_method="center")
        np.testing.assert_allclose(columns["aper_sky"], stats.median, atol=1e-6)
        assert np.median(columns["aper_sky"]) == pytest.approx(1.5, abs=0.1)
        # the error is that of a median: as many rings as stars scatter by it
        assert np.std(columns["aper_sky"] - 1.5) < 2.5 * np.median(columns["aper_sky_err"])

    @pytest.mark.parametrize("radius", [2.5, 5, 9.3])
    def test_circles(self, psf, frame, stars, columns, radius):
        """P047, M016, N014: circles of any radius are those of the library."""
        name = label(radius, "pix")
        for k in range(N):
            image = cleaned_image(frame, psf, stars, k) - columns["aper_sky"][k]
            circle = CircularAperture((stars.x[k], stars.y[k]), radius)
            theirs = aperture_photometry(image, circle, error=np.full(SHAPE, NOISE))
            ours, error = columns[f"aper_flux_{name}"][k], columns[f"aper_flux_err_{name}"][k]
            assert ours == pytest.approx(theirs["aperture_sum"][0], rel=1e-4)
            area = np.pi * radius**2
            whole = np.hypot(theirs["aperture_sum_err"][0], area * columns["aper_sky_err"][k])
            assert error == pytest.approx(whole, rel=1e-4)
            by_sep, _, _ = sep.sum_circle(image, stars.x[k : k + 1], stars.y[k : k + 1], radius, subpix=0)
            assert ours == pytest.approx(by_sep[0], rel=1e-4)

    def test_ellipses_and_kron(self, psf, frame, stars, columns):
        """P029, P031, P048, P049, N013: sums in ellipses and Kron apertures are those of the libraries."""
        fwhm = psf.fwhm
        for k in range(N):
            image = cleaned_image(frame, psf, stars, k) - columns["aper_sky"][k]
            a, b, theta = columns["a"][k], columns["b"][k], np.radians(columns["theta"][k])
            ellipse = EllipticalAperture((stars.x[k], stars.y[k]), 3.5 * a, 3.5 * b, theta=theta)
            assert columns["ell_flux_3p5rms"][k] == pytest.approx(
                ellipse.do_photometry(image)[0][0], rel=1e-4
            )
            at = (stars.x[k : k + 1], stars.y[k : k + 1], [a], [b], [theta])
            radius, _ = sep.kron_radius(image, *at, 6.0)
            assert columns["kron_radius"][k] == pytest.approx(radius[0], rel=1e-4)
            assert 2.5 * radius[0] * np.sqrt(a * b) > fwhm
            flux, _, _ = sep.sum_ellipse(image, *at, 2.5 * radius, subpix=0)
            assert columns["kron_flux"][k] == pytest.approx(flux[0], rel=1e-4)
            assert columns["kron_a"][k] == pytest.approx(2.5 * radius[0] * a, rel=1e-4)
            most = np.array([2 * columns["kron_a"][k]])
            radii, _ = sep.flux_radius(image, *at[:2], most, [0.2, 0.5, 0.9], normflux=flux, subpix=5)
            ours = [columns[f"r{p}"][k] for p in (20, 50, 90)]
            np.testing.assert_allclose(ours, np.ravel(radii), rtol=1e-4)

    def test_sharpness_and_roundness_are_those_of_daofind(self, psf, frame, stars, columns):
        """M014: the same numbers."""
        for k in range(N):
            image = cleaned_image(frame, psf, stars, k) - columns["aper_sky"][k]
            middle = np.floor([[stars.x[k] + 0.5, stars.y[k] + 0.5]]).astype(int)
            finder = DAOStarFinder(
                -1e9, psf.fwhm, xycoords=middle, sharpness_range=None, roundness_range=None
            )
            (theirs,) = finder.find_stars(image)
            assert columns["dao_sharpness"][k] == pytest.approx(theirs["sharpness"], abs=1e-4)
            assert columns["roundness1"][k] == pytest.approx(theirs["roundness1"], abs=1e-4)
            assert columns["roundness2"][k] == pytest.approx(theirs["roundness2"], abs=1e-4)

    def test_chunks_change_nothing(self, frame, stars, columns, monkeypatch):
        monkeypatch.setattr(cleaned, "CANVAS_PIXELS", 4000)
        few, _ = measured(frame, stars, radii=(2.5, 5, 9.3), unit="pix", annulus=(12, 20), annulus_unit="pix")
        for name, values in few.items():
            if name in columns:
                np.testing.assert_allclose(values, columns[name], rtol=1e-5, atol=1e-6, err_msg=name)


class TestCleaning:
    def test_noiseless_crowd(self, psf):
        """Neighbours leave nothing: corrected aperture and Kron fluxes are the true ones, at any pixel phase."""
        stars = crowd(120, seed=3, margin=20)
        columns, _ = measured(frame_of(psf, stars, seed=None), stars)
        assert np.median(columns["aper_contam_2fwhm"]) > 1
        for name in ("aper_{}_1fwhm", "aper_{}_3fwhm", "kron_{}", "ell_{}_3rms"):
            whole = columns[name.format("flux")] * columns[name.format("corr")]
            np.testing.assert_allclose(whole, stars.flux, rtol=3e-4, err_msg=name)
        np.testing.assert_allclose(columns["aper_left_2fwhm"], 0, atol=3e-4)

    def test_contamination_before_and_after(self, psf):
        """P030, P052: light of a neighbour over the star's own, and the share left of a star that is not known."""
        stars = Sources.at([70.0, 76.0], [70.0, 70.0], [1e4, 5e4])
        unknown = render(psf, [70.0], [76.0], [3e3], SHAPE)
        columns, _ = measured(frame_of(psf, stars, seed=None, extra=unknown), stars, annulus=None)
        circle = CircularAperture((70.0, 70.0), 2 * psf.fwhm)
        own, other, left = (
            circle.do_photometry(render(psf, [x], [y], [f], SHAPE).astype(float))[0][0]
            for x, y, f in ((70, 70, 1e4), (76, 70, 5e4), (70, 76, 3e3))
        )
        assert columns["aper_contam_2fwhm"][0] == pytest.approx(other / own, rel=1e-3)
        assert columns["aper_left_2fwhm"][0] == pytest.approx(left / own, rel=1e-3)

    def test_errors_are_those_of_the_scatter(self, psf):
        """Local sky and pixel noise: pulls of 200 stars have unit width."""
        stars = crowd(200, seed=5, margin=2)
        columns, _ = measured(frame_of(psf, stars, seed=6, offset=4.0), stars, annulus=(3, 5))
        for name in ("1fwhm", "3fwhm"):
            share = 1 / columns[f"aper_corr_{name}"]
            pull = (columns[f"aper_flux_{name}"] - stars.flux * share) / columns[f"aper_flux_err_{name}"]
            assert abs(np.mean(pull)) < 0.35
            assert 0.8 < np.std(pull) < 1.25


class TestMasksAndEdges:
    def test_masked_pixels_hold_the_model(self, psf):
        """M020: the area of the sky leaves them out; huge values there play no part."""
        stars = Sources.at([70.2], [60.4], [1e4])
        mask = np.zeros(SHAPE, bool)
        mask[60, 68:75] = True
        columns, _ = measured(frame_of(psf, stars, seed=None, offset=5.0, mask=mask, extra=1e6 * mask), stars)
        assert columns["aper_sky"][0] == pytest.approx(5, rel=1e-4)
        np.testing.assert_allclose(columns["aper_flux_2fwhm"] * columns["aper_corr_2fwhm"], 1e4, rtol=2e-4)
        circle = CircularAperture((70.2, 60.4), 2 * psf.fwhm)
        usable = circle.do_photometry((~mask).astype(float))[0][0] / circle.area
        assert columns["aper_good_2fwhm"][0] == pytest.approx(usable, rel=1e-4)
        assert columns["aper_flags"][0] == flags.aperture_bits("masked", True)

    def test_edge(self, psf):
        stars = Sources.at([1.0, 80.0], [75.0, 75.0], [1e4, 1e4])
        columns, _ = measured(frame_of(psf, stars, seed=None), stars)
        assert columns["aper_flags"].tolist() == [1 << 1 | 1 << 2, 0]
        assert columns["aper_good_3fwhm"][0] < 0.8
        np.testing.assert_allclose(columns["aper_flux_3fwhm"] * columns["aper_corr_3fwhm"], 1e4, rtol=3e-4)

    def test_failed_ring_is_flagged_and_not_dropped(self, psf):
        """M019, M021: no sentinel, no row lost, the sky of the fit stands."""
        stars = Sources.at([30.0, 120.0], [75.0, 75.0], [1e4, 1e4])
        mask = np.zeros(SHAPE, bool)
        mask[:, 90:] = True
        mask[65:86, 110:131] = False
        frame = frame_of(psf, stars, seed=None, offset=2.0, mask=mask)
        columns, _ = measured(frame, stars, annulus=(20, 25), annulus_unit="pix", radii=(6,), unit="pix")
        assert columns["aper_sky"][0] == pytest.approx(2, rel=1e-3)
        assert np.isnan(columns["aper_sky"][1])
        assert columns["aper_sky_n"][1] == 0
        assert columns["aper_flags"].tolist() == [0, 1]
        extra = np.diff(columns["aper_flux_6pix"])[0]
        assert extra == pytest.approx(2 * np.pi * 36, rel=1e-2)

    def test_least_number_of_pixels(self, psf):
        stars = Sources.at([80.0], [75.0], [1e4])
        frame = frame_of(psf, stars, seed=None)
        n = measured(frame, stars)[0]["aper_sky_n"][0]
        assert np.isfinite(measured(frame, stars, min_pixels=n)[0]["aper_sky"][0])
        assert np.isnan(measured(frame, stars, min_pixels=n + 1)[0]["aper_sky"][0])

    def test_data_quality_in_each_circle(self, psf):
        """M023: bits are combined, and the circle is not its bounding box."""
        stars = Sources.at([80.0], [75.0], [1e4])
        dq = np.zeros(SHAPE, np.uint32)
        dq[75, 82], dq[79, 85], dq[75, 86] = 1, 2**31, 4
        columns, _ = measured(frame_of(psf, stars, dq=dq), stars, radii=(2, 5, 6), unit="pix")
        assert [columns[f"aper_dq_{r}pix"][0] for r in (2, 5, 6)] == [1, 1, 1 | 4 | 2**31]


class TestUnitsAndNames:
    def test_units(self, psf):
        """Names say the radius; the same circle in pix, arcsec and FWHM has the same flux."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 150.0, 2.0
        wcs.wcs.cdelt = -0.05 / 3600, 0.05 / 3600
        stars = crowd(4)
        frame = frame_of(psf, stars, wcs=wcs)
        by_pix, _ = measured(frame, stars, radii=(4.5,), unit="pix", annulus=(10, 14), annulus_unit="pix")
        by_sky, _ = measured(
            frame, stars, radii=(0.225,), unit="arcsec", annulus=(0.5, 0.7), annulus_unit="arcsec"
        )
        by_fwhm, _ = measured(frame, stars, radii=(4.5 / psf.fwhm,), annulus=(10 / psf.fwhm, 14 / psf.fwhm))
        np.testing.assert_allclose(by_sky["aper_flux_0p225arcsec"], by_pix["aper_flux_4p5pix"], rtol=1e-5)
        (name,) = [name for name in by_fwhm if name.startswith("aper_flux_1p")]
        np.testing.assert_allclose(by_fwhm[name], by_pix["aper_flux_4p5pix"], rtol=1e-5)
        assert "ci_class" not in by_pix
        assert "p_star" not in by_pix

    def test_arcsec_without_wcs(self, psf):
        stars = crowd(3)
        with pytest.raises(InputError, match="aperture.unit is 'arcsec', but the image has no WCS"):
            measured(frame_of(psf, stars), stars, unit="arcsec")
        with pytest.raises(InputError, match="aperture.annulus_unit"):
            measured(frame_of(psf, stars), stars, annulus_unit="arcsec")

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("aperture.radii=[3, 2]", "the radii must increase"),
            ("aperture.radii=[0, 2]", "greater than 0"),
            ("aperture.radii=[2, 2.0000001]", "equal in six digits"),
            ("aperture.annulus=[7, 4]", "outer radius must be larger"),
            ("aperture.cut=[[1, 2], [1, 3]]", "must increase"),
            ("aperture.unit=mas", "'pix', 'arcsec', 'fwhm'"),
        ],
    )
    def test_refused_settings(self, setting, message):
        with pytest.raises(ConfigError, match=message):
            load_config(None, ["aperture.kind=cleaned", setting])

    def test_every_column_is_in_the_catalogue(self, psf):
        """Each has unit and meaning; the order is that of the definitions, radii by size."""
        stars = crowd(6)
        frame = frame_of(psf, stars)
        columns, _ = measured(frame, stars, radii=(1, 2.5, 3), fractions=(0.5, 0.9), ellipses=(2, 3))
        table = build_catalog({"id": stars.id, "x": stars.x, "y": stars.y, "flux": stars.flux,
                               "flux_err": stars.flux} | columns, frame.exposure)  # fmt: skip
        assert set(columns) <= set(table.colnames)
        assert table.colnames.index("aper_flux_1fwhm") + 1 == table.colnames.index("aper_flux_2p5fwhm")
        assert all(column(name).text for name in columns)
        assert table["ci_2p5fwhm_1fwhm"].info.description == column("ci_<r>_<r>").text

    def test_nothing_by_default(self):
        assert isinstance(load_config().aperture, NoApertures)
        assert NoApertures()((), Sources.empty(), {}).columns == {}

    def test_no_stars(self, psf):
        """The columns are there, with their types."""
        frame = frame_of(psf, Sources.empty())
        empty, corrections = measured(frame, Sources.empty())
        stars = crowd(3)
        full, _ = measured(frame_of(psf, stars), stars)
        assert {name: values.dtype for name, values in empty.items()} == {
            name: values.dtype for name, values in full.items()
        }
        assert corrections.n_stars == 0


class TestCorrections:
    def test_from_the_psf_and_from_stars(self, psf):
        """P050, P055: both agree where the PSF is right, and the stars tell where it is wrong."""
        grid = 20.0 + 30 * np.arange(4)
        x, y = (part.ravel() for part in np.meshgrid(grid, grid))
        stars = Sources.at(x + 0.3, y - 0.2, np.full(16, 2e5))
        _, right = measured(frame_of(psf, stars), stars)
        assert right.n_stars == 16
        np.testing.assert_allclose(right.stars, right.psf, rtol=2e-3)
        assert np.all(np.abs(right.stars - right.psf)[:2] < 4 * right.stars_err[:2])
        share = render(psf, [40.3], [39.8], [1.0], (81, 81)).astype(float)
        direct = CircularAperture((40.3, 39.8), psf.fwhm).do_photometry(share)[0][0]
        assert right.psf[0] == pytest.approx(1 / direct, rel=1e-3)
        frame = frame_of(psf, stars)
        narrow = moffat(3.0, 3.0, ellipticity=0.15, angle=30, radius=30)
        wrong = dataclasses.replace(frame, psf=narrow).rendered(stars)
        _, found = measured(wrong, stars, radii=(3.4, 6.8, 10.2), unit="pix")
        _, true = measured(frame, stars, radii=(3.4, 6.8, 10.2), unit="pix")
        assert found.psf[0] < 0.95 * true.psf[0]
        assert abs(found.stars[0] / true.psf[0] - 1) < 0.2 * abs(found.psf[0] / true.psf[0] - 1)
        assert "16 stars" in right.text

    def test_too_few_stars(self, psf):
        stars = Sources.at([40.0, 100.0], [75.0, 75.0], [1e5, 1e5])
        _, found = measured(frame_of(psf, stars), stars)
        assert found.n_stars == 2
        assert np.isnan(found.stars).all()
        assert "no stars" in found.text


class TestShapes:
    def test_faint_stars_have_the_shape_of_the_psf(self, psf):
        """Their apertures do not follow the noise, and it is said so."""
        stars = Sources.at([40.0, 100.0], [75.0, 75.0], [40.0, 1e5])
        columns, _ = measured(frame_of(psf, stars), stars)
        assert (columns["aper_flags"] & flags.aperture_bits("psf_shape", True)).tolist() == [8, 0]
        assert columns["kron_a"][0] == pytest.approx(columns["kron_a"][1], rel=0.03)
        assert columns["theta"][1] == pytest.approx(30, abs=3)

    def test_least_kron_radius(self, psf):
        """P031: a radius cut off at its minimum is flagged, and the aperture is a circle."""
        stars = crowd(5)
        columns, _ = measured(frame_of(psf, stars), stars, kron_least=3.0)
        assert np.all(columns["aper_flags"] & flags.aperture_bits("kron_least", True))
        np.testing.assert_allclose(columns["kron_a"], 3 * psf.fwhm)
        np.testing.assert_allclose(columns["kron_b"], 3 * psf.fwhm)

    def test_extended_source(self, psf):
        """An elliptical Gaussian galaxy fitted as a star: its shape, its Kron flux, its half-light radius."""
        rows, cols = np.indices(SHAPE)
        u, v = cols - 80.0, rows - 75.0
        along, across = (u + v) / np.sqrt(2), (v - u) / np.sqrt(2)
        galaxy = np.exp(-0.5 * ((along / 6) ** 2 + (across / 3) ** 2))
        galaxy *= 1e5 / galaxy.sum()
        stars = Sources.at([80.0], [75.0], [3e4])
        columns, _ = measured(
            frame_of(psf, stars, extra=galaxy - render(psf, [80.0], [75.0], [3e4], SHAPE), seed=2),
            stars,
            annulus=None,
            reach=10,
        )
        assert columns["a"][0] == pytest.approx(6, rel=0.02)
        assert columns["b"][0] == pytest.approx(3, rel=0.02)
        assert columns["theta"][0] == pytest.approx(45, abs=1)
        assert columns["kron_flux"][0] == pytest.approx(1e5, rel=0.04)
        assert columns["r50"][0] > 1.4 * psf.fwhm
        cut, _ = measured(
            frame_of(psf, stars, extra=galaxy - render(psf, [80.0], [75.0], [3e4], SHAPE), seed=2),
            stars,
            reach=4,
            radii=(1,),
        )
        assert cut["aper_flags"][0] & flags.aperture_bits("kron_cut", True)

    def test_no_radius_without_light(self, psf):
        """N015: NaN where the Kron flux is not positive."""
        stars = Sources.at([80.0], [75.0], [-5e3])
        columns, _ = measured(frame_of(psf, stars, seed=None), stars)
        assert np.isnan(columns["r50"][0])
        assert np.isnan(columns["aper_mag_1fwhm"][0])
        assert np.isnan(columns["p_star"][0]) or columns["p_star"][0] >= 0
        assert columns["ci_class"][0] == -1


def test_the_same_on_any_number_of_threads(psf, same_bits):
    stars = crowd(60, seed=9)
    frame = frame_of(psf, stars)
    frame.resid, frame.fit_ivar, psf.coef  # noqa: B018 - made once, outside of what is compared
    same_bits(lambda: list(measured(frame, stars)[0].values()))


def test_undersampled(psf):
    """FWHM 1.3 px: circles of a pixel, corrections at every phase; too narrow for a shape of their own."""
    narrow = gaussian(1.3, radius=12)
    stars = crowd(40, seed=11, margin=10)
    columns, _ = measured(frame_of(narrow, stars, seed=None), stars)
    whole = columns["aper_flux_1fwhm"] * columns["aper_corr_1fwhm"]
    np.testing.assert_allclose(whole, stars.flux, rtol=1e-3)
    no_shape = np.isnan(columns["a"])
    assert no_shape.any()
    assert np.all(columns["aper_flags"][no_shape] & flags.aperture_bits("psf_shape", True))
    np.testing.assert_allclose(columns["kron_flux"] * columns["kron_corr"], stars.flux, rtol=2e-3)
