"""Extended sources: told by the packing of what was shredded, outlined, masked and measured; no harm to star fields."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.modeling.models import Sersic2D
from astropy.table import Table
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from crowdfit import fit_image, run
from crowdfit.catalog import SEGMENT_COLUMNS, build_segments
from crowdfit.config import Config
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.extended import Extended
from crowdfit.frame import Frame, StampSizes
from crowdfit.io.run_record import RunRecord, read_extended, read_head, read_record
from crowdfit.loop import PassStats, State, iterate
from crowdfit.photometry.segments import EDGE, measure_segments
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.simulate import named_scene, simulate
from crowdfit.sources import Sources
from crowdfit.stages.segments import NoSegments, SepSegments, packed_neighbours

SHAPE = (120, 130)
FWHM = 3.0


@pytest.fixture(scope="module")
def psf():
    return moffat(FWHM, 3.5, radius=25)


def frame_of(psf, stars, extra=0.0, noise=1.0):
    """Return a frame that holds the stars, and light that its model does not know."""
    image = render(psf, stars.x, stars.y, stars.flux, SHAPE) + extra
    image = image + noise * np.random.default_rng(1).normal(size=SHAPE)
    exposure = Exposure.of(image, np.full(SHAPE, noise**-2))
    return Frame.start(exposure, psf, StampSizes(level=1e-6)).rendered(stars)


def shredded(x0, y0, flux=3e4, rms=5.0, step=0.75 * FWHM):
    """Return the stars that stand for a round Gaussian galaxy: a grid of them, as dense as the PSF resolves."""
    grid = np.arange(-3 * rms, 3 * rms + 1, step)
    u, v = (part.ravel() for part in np.meshgrid(grid, grid))
    light = np.exp(-0.5 * (u * u + v * v) / rms**2)
    keep = light > 0.02
    return x0 + u[keep], y0 + v[keep], flux * light[keep] / light[keep].sum()


def joined(*lists):
    return Sources.at(*(np.concatenate(part) for part in zip(*lists, strict=True)))


def scattered(n, seed=2, flux=(100.0, 1e4)):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n), 10 ** rng.uniform(*np.log10(flux), n)


class TestPacking:
    def test_counts(self):
        """Against all pairs."""
        stars = joined(scattered(300))
        distance = np.hypot(stars.x[:, None] - stars.x, stars.y[:, None] - stars.y)
        near = (distance < 8) & (stars.flux[None, :] >= 0.3 * stars.flux[:, None])
        np.fill_diagonal(near, False)
        np.testing.assert_array_equal(packed_neighbours(stars, 8.0, 0.3), near.sum(axis=1))

    def test_nobody(self):
        assert packed_neighbours(Sources.at([1.0, 50.0], [1.0, 50.0], [1, 1]), 3.0, 0.1).tolist() == [0, 0]


class TestFinding:
    def test_galaxy_among_stars(self, psf):
        """One outline, around the galaxy; its mask has a margin."""
        stars = joined(shredded(60.0, 70.0), scattered(60))
        frame = frame_of(psf, stars)
        found = SepSegments()((frame,), stars)
        assert len(found.objects) == 1
        assert found.outline.max() == 1
        assert np.hypot(found.objects["x"][0] - 60, found.objects["y"][0] - 70) < 1.5
        assert found.outline[70, 60] == 1
        mask = SepSegments(grow=2.0).mask(found, FWHM)
        rows, cols = np.nonzero((found.outline > 0) & ~mask)
        assert len(rows) == 0
        assert np.count_nonzero(mask) > 1.5 * np.count_nonzero(found.outline)

    @pytest.mark.parametrize("per_star", [20, 40, 100])
    def test_no_harm_to_stars(self, psf, per_star):
        """A list of stars of all fluxes, as many as a fit resolves, holds nothing extended."""
        x, y, flux = scattered(SHAPE[0] * SHAPE[1] // per_star)
        order = np.argsort(-flux)
        apart = []
        for star in order:  # a fit does not find two stars closer than this
            if all(np.hypot(x[star] - x[k], y[star] - y[k]) > 0.7 * FWHM for k in apart):
                apart.append(star)
        stars = Sources.at(x[apart], y[apart], flux[apart])
        assert not len(SepSegments()((frame_of(psf, stars),), stars).objects)

    def test_nothing_in_an_empty_list(self, psf):
        stars = Sources.empty()
        found = SepSegments()((frame_of(psf, stars),), stars)
        assert len(found.objects) == 0
        assert not SepSegments().mask(found, FWHM).any()

    def test_halo_of_a_bright_star_is_no_galaxy(self, psf):
        """What is left around a bright star, where the PSF is wrong, is packed too."""
        u, v, flux = shredded(0.0, 0.0, flux=2e4)
        ring = np.hypot(u, v) > 4
        halo = (60 + u[ring], 60 + v[ring], flux[ring])
        bright = ([60.0], [60.0], [2e6])
        assert not len(self._found(psf, joined(halo, bright)).objects)
        assert len(self._found(psf, joined(halo, bright), halo=0.0, share=0.0).objects)

    def test_unresolved_cluster_is_no_galaxy(self, psf):
        """Packed stars with as much light in others, which stand alone by their flux."""
        u, v, flux = shredded(60.0, 60.0)
        giants = np.array([[57.0, 62.0], [64.0, 55.0], [59.0, 55.0], [63.0, 64.0]])
        stars = joined((u, v, flux), (giants[:, 0], giants[:, 1], np.full(4, 20 * flux.max())))
        assert not len(self._found(psf, stars, halo=0.0).objects)
        assert len(self._found(psf, stars, halo=0.0, share=0.0).objects)

    def test_star_before_a_galaxy_keeps_its_pixels(self, psf):
        """It goes on being fitted; the nucleus of the galaxy does not."""
        galaxy = shredded(60.0, 70.0, rms=6.0)
        star = ([68.0], [70.0], [3e4])
        found = self._found(psf, joined(galaxy, star))
        assert found.in_front[70, 68]
        assert not found.in_front[70, 60]
        assert np.count_nonzero(found.in_front) < np.pi * (FWHM + 1) ** 2
        nucleus = ([60.0], [70.0], [3e4])
        assert not self._found(psf, joined(galaxy, nucleus)).in_front.any()

    @staticmethod
    def _found(psf, stars, **options):
        return SepSegments(**options)((frame_of(psf, stars),), stars)


def state_of(frame, stars):
    stats = PassStats(0, len(stars), 0, {}, 1.0, FWHM, 0.0, 0, 0, 0.0, {}, {}, 0.0)
    return State(0, stars, (frame,), stats)


class TestMasking:
    def test_rounds(self, psf):
        """What is masked is left out of the next first frame, also where it was saturated; rounds end."""
        stars = joined(shredded(60.0, 70.0), scattered(30))
        frame = frame_of(psf, stars)
        config = Config(segments=SepSegments(rounds=1))
        nothing = Extended.nothing(frame.exposure)
        found = nothing.look(config, state_of(frame, stars))
        again = found.first_frame(frame, config)
        np.testing.assert_array_equal(again.exposure.good, ~found.masked)
        assert np.all(again.exposure.data[found.masked] == 0)
        assert again.psf is frame.psf
        assert not again.model.any()
        assert found.look(config, state_of(frame, stars)) is None
        assert nothing.look(Config(), state_of(frame, stars)) is None
        assert nothing.measured(Config(), frame) is None

    def test_nothing_found(self, psf):
        stars = joined(scattered(30))
        frame = frame_of(psf, stars)
        config = Config(segments=SepSegments())
        nothing = Extended.nothing(frame.exposure)
        assert nothing.look(config, state_of(frame, stars)) is None
        segments = nothing.measured(config, frame)
        assert segments.columns == {}
        assert not segments.masked.any()


class TestCatalogue:
    def test_known_galaxy(self, psf):
        """Kron flux and half-light radius of a Gaussian; what lies elsewhere is left out; a star is taken off."""
        rows, cols = np.indices(SHAPE)
        light = np.zeros(SHAPE)
        for x, y in ((60.0, 70.0), (100.0, 30.0), (4.0, 60.0)):
            light += 5e4 / (2 * np.pi * 16) * np.exp(-0.5 * ((cols - x) ** 2 + (rows - y) ** 2) / 16)
        star = Sources.at([75.0], [70.0], [1e5])
        frame = frame_of(psf, star, extra=light)
        cores = np.zeros(SHAPE, bool)
        cores[60:80, 50:70] = cores[50:70, 0:12] = True
        segments = measure_segments(SepSegments(), frame, frame.exposure, cores, cores)
        columns = segments.columns
        assert len(columns["x"]) == 2
        middle, edge = np.argsort(-columns["x"])
        assert (columns["x"][middle], columns["y"][middle]) == pytest.approx((60, 70), abs=0.2)
        assert columns["kron_flux"][middle] == pytest.approx(5e4, rel=0.05)
        assert columns["r50"][middle] == pytest.approx(4 * 1.1774, rel=0.05)
        assert 15 < columns["kron_flux_err"][middle] < 60
        assert columns["seg_flags"][middle] & EDGE == 0
        assert columns["seg_flags"][edge] & EDGE
        assert segments.outline[70, 60] == columns["id"][middle]
        assert segments.outline[30, 100] == 0

    def test_table(self, psf):
        """Every column is defined; without sources the table is empty and has them too."""
        frame = frame_of(
            psf, Sources.empty(), extra=200.0 * np.exp(-0.05 * np.sum((np.indices(SHAPE) - 60) ** 2, 0))
        )
        segments = measure_segments(
            SepSegments(), frame, frame.exposure, np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
        )
        table = build_segments(segments.columns, frame.exposure)
        without_sky = [entry.name for entry in SEGMENT_COLUMNS if entry.name not in ("ra", "dec")]
        assert table.colnames == without_sky
        assert len(table) >= 1
        empty = build_segments({}, frame.exposure)
        assert empty.colnames == without_sky
        assert len(empty) == 0


@pytest.fixture(scope="module")
def field():
    """Return a field of stars with four galaxies: exposure, true stars, and places and half-light radii of galaxies."""
    scene = named_scene(
        "demo", ny=220, nx=220, n_stars=250, margin=0, fwhm=FWHM, flux_min=1e3, flux_max=2e5, seed=6,
        bad_pixels=0.0, dead_columns=0,
    )  # fmt: skip
    made = simulate(scene)
    galaxies = np.array([[60.0, 60.0, 6.0], [160.0, 50.0, 4.0], [60.0, 165.0, 5.0], [165.0, 160.0, 7.0]])
    rows, cols = np.indices((220, 220))
    light = np.zeros((220, 220))
    for n, (x, y, radius) in enumerate(galaxies):
        profile = Sersic2D(1, radius, 1.0 + 0.5 * n, x, y, 0.4, 0.7 * n)(cols, rows)
        light += 8e4 * profile / profile.sum()
    kernel = made.psf.native(41).astype(float)
    light = np.maximum(fftconvolve(light, kernel / kernel.sum(), mode="same"), 0)
    exposure = made.exposure
    noise = np.sqrt(light / scene.gain) * np.random.default_rng(8).normal(size=light.shape)
    exposure = Exposure.of(exposure.data + light + noise, exposure.ivar, gain=scene.gain, name="galaxies")
    return exposure, np.column_stack([made.truth[name] for name in ("x", "y", "flux")]), galaxies


def isolated_snr(catalog):
    """Return flux over the error it would have alone: a crowd of shreds has errors that hide it."""
    return np.asarray(catalog["flux"] / catalog["flux_err_isolated"])


def wrong_stars(catalog, truth, galaxies):
    """Return significant stars that are none, and of these those at galaxies."""
    xy = np.column_stack([catalog["x"].value, catalog["y"].value])
    none = (cKDTree(truth[:, :2]).query(xy)[0] > 1.0) & (isolated_snr(catalog) > 10)
    near = (
        np.min(np.hypot(xy[:, :1] - galaxies[:, 0], xy[:, 1:] - galaxies[:, 1]) / galaxies[:, 2], axis=1) < 4
    )
    return np.count_nonzero(none & ~near), np.count_nonzero(none & near)


@pytest.mark.slow
def test_field_with_galaxies(field, tmp_path):
    """P028: Issue 5, item 1: galaxies are not shredded into stars, and the stars are as good as without them."""
    exposure, truth, galaxies = field
    plain = fit_image(exposure)
    told = fit_image(exposure, segments__kind="sep", record=tmp_path / "run.h5")
    assert len(read_record(tmp_path / "run.h5")) == len(told.history)  # of the fit that stands
    _, shreds = wrong_stars(plain.catalog, truth, galaxies)
    elsewhere, left = wrong_stars(told.catalog, truth, galaxies)
    assert shreds > 40
    # a galaxy whose shreds lie a little farther apart than the others' may not be told
    assert left <= 0.25 * shreds
    assert elsewhere <= 3
    columns = told.segments.columns
    places = np.column_stack([columns["x"], columns["y"]])
    distance, nearest = cKDTree(places).query(galaxies[:, :2])
    told_of = distance < 2
    assert np.count_nonzero(told_of) >= 3
    nearest = nearest[told_of]
    # stars that do not stand out of a galaxy count with it
    stars = cKDTree(np.column_stack([told.catalog["x"].value, told.catalog["y"].value]))
    on_image = np.all((truth[:, :2] > 0) & (truth[:, :2] < 219), axis=1)
    lost = truth[on_image & (stars.query(truth[:, :2])[0] > 1)]
    number = told.segments.outline[np.round(lost[:, 1]).astype(int), np.round(lost[:, 0]).astype(int)]
    hidden = np.bincount(number, lost[:, 2], minlength=len(places) + 1)[1:]
    np.testing.assert_allclose(columns["kron_flux"][nearest], 8e4 + hidden[nearest], rtol=0.25)
    # stars away from galaxies
    far = (
        np.min(
            np.hypot(truth[:, :1] - galaxies[:, 0], truth[:, 1:2] - galaxies[:, 1]) / galaxies[:, 2], axis=1
        )
        > 5
    )
    inside = np.all((truth[:, :2] > 0) & (truth[:, :2] < 219), axis=1)
    bright = far & inside & (truth[:, 2] > 5e3)
    found = cKDTree(np.column_stack([told.catalog["x"].value, told.catalog["y"].value])).query(
        truth[bright, :2]
    )[0]
    assert np.mean(found < 1) > 0.97
    path = told.write(tmp_path)[-1]
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(hdus["SEGMAP"].data, told.segments.outline)
        assert len(Table.read(hdus["SEGMENTS"])) == len(columns["x"])


@pytest.mark.slow
def test_field_without_galaxies():
    """Not a bit of the fit of a dense field changes, and the catalogue of extended sources is empty."""
    scene = named_scene("demo", ny=150, nx=150, n_stars=1500, fwhm=FWHM, seed=3)
    exposure = simulate(scene).exposure
    plain = fit_image(exposure)
    told = fit_image(exposure, segments__kind="sep")
    assert told.segments.columns == {}
    np.testing.assert_array_equal(plain.catalog["flux"].value, told.catalog["flux"].value)


@pytest.fixture(scope="module")
def unbroken(field, tmp_path_factory):
    """A short fit of a part of that field, made anew without its galaxy: image, result, numbers of passes, record."""
    whole, passes = field[0], []
    cut = np.s_[100:, :110]
    exposure = Exposure.of(whole.data[cut], whole.ivar[cut], gain=whole.gain, name="galaxy")
    path = tmp_path_factory.mktemp("unbroken") / "run.h5"
    result = fit_image(exposure, record=path, progress=lambda state: passes.append(state.pass_no), **SHORT)
    return exposure, result, passes, path


SHORT = {"segments__kind": "sep", "segments__rounds": 2, "stop__max_passes": 5, "stop__min_passes": 5}


class Killed(Exception):  # noqa: N818 - nothing is wrong
    """Stands for the end of the process."""


@pytest.mark.parametrize("pass_no", [4, 5, 6, -1])
def test_resume(unbroken, tmp_path, pass_no):
    """P100: ended after the fit with galaxies, after the first, the second and the last pass without: the same bits."""
    exposure, whole, passes, _ = unbroken
    assert passes[5] == 0  # a galaxy was found
    assert len(whole.segments.columns["x"])
    last, seen = pass_no % len(passes), []

    def follow(state):
        seen.append(state.pass_no)
        if len(seen) == last + 1:
            raise Killed

    path = tmp_path / "run.h5"
    with pytest.raises(Killed):
        fit_image(exposure, record=path, progress=follow, **SHORT)
    assert read_head(path).n_passes == passes[last] + 1
    more = []
    told = fit_image(
        exposure, record=path, resume=True, progress=lambda state: more.append(state.pass_no), **SHORT
    )
    assert seen + more == passes
    for name in whole.catalog.colnames:
        assert np.asarray(told.catalog[name]).tobytes() == np.asarray(whole.catalog[name]).tobytes(), name
    for name, values in whole.segments.columns.items():
        np.testing.assert_array_equal(told.segments.columns[name], values)
    np.testing.assert_array_equal(told.segments.outline, whole.segments.outline)
    np.testing.assert_array_equal(told.segments.masked, whole.segments.masked)
    np.testing.assert_array_equal(told.residual, whole.residual)


def test_record_holds_what_was_masked(unbroken, tmp_path):
    exposure, whole, _, path = unbroken
    kept = Extended.of(exposure, read_extended(path, exposure.shape))
    assert kept.rounds >= 1
    np.testing.assert_array_equal(kept.masked, whole.segments.masked)
    np.testing.assert_array_equal(kept.left.ivar > 0, exposure.good & ~kept.masked)
    with pytest.raises(InputError, match=r"damaged \(extended/\w+ has shape"):
        read_extended(path, (5, 5))
    plain = tmp_path / "plain.h5"
    RunRecord(plain).start({}, "", {})
    assert read_extended(plain, exposure.shape) is None
    none = Extended.of(exposure, None)
    assert none.left is exposure
    assert not none.masked.any()


def test_record_is_kept_until_a_pass_has_been_made_anew(unbroken, tmp_path, monkeypatch):
    """Killed in the first pass without galaxies, a run goes on after the fit with them."""
    exposure, whole, passes, _ = unbroken
    path, begun = tmp_path / "run.h5", []

    def killed(frames, config, sources, **options):
        begun.append(len(begun))
        if len(begun) == 2:
            raise Killed
        yield from iterate(frames, config, sources, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run, "iterate", killed)
        with pytest.raises(Killed):
            fit_image(exposure, record=path, **SHORT)
    assert read_head(path).n_passes == 5
    more = []
    told = fit_image(
        exposure, record=path, resume=True, progress=lambda state: more.append(state.pass_no), **SHORT
    )
    assert more == passes[5:]
    np.testing.assert_array_equal(told.catalog["flux"], whole.catalog["flux"])


def test_off_by_default():
    assert isinstance(Config().segments, NoSegments)
