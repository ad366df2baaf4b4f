"""The benchmarks' scorer: catalogues with known answers, and the scorer of record where it is there."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from benchmarks.score import (
    Stars,
    Truth,
    as_stars,
    local_density,
    match,
    read_catalog,
    read_truth,
    robust_width,
    score,
)
from crowdfit.simulate import Scene, simulate

RECORD = Path(__file__).parents[2] / "shared" / "tools" / "score.py"
FWHM = 4.0


def stars(x, y, flux, err=1.0):
    x, y, flux = (np.atleast_1d(np.asarray(v, float)) for v in (x, y, flux))
    return Stars(x, y, flux, np.broadcast_to(np.asarray(err, float), x.shape))


def truth_of(x, y, flux, clean=None, sky_error=10.0):
    true = stars(x, y, flux, np.nan)
    return Truth(
        true, FWHM, sky_error, (200, 200), np.ones(len(true), bool) if clean is None else np.asarray(clean)
    )


GRID = [a.ravel() for a in np.meshgrid(np.arange(25.0, 176, 10), np.arange(25.0, 176, 10))]
N = len(GRID[0])


class TestMatch:
    def test_nearest_wins(self):
        truth = truth_of([50], [50], [1000])
        assert match(truth, stars([51, 50.5], [50, 50], [1000, 1000])).tolist() == [1]

    def test_radius_is_half_a_fwhm(self):
        truth = truth_of([50], [50], [1000])
        assert match(truth, stars([51.99], [50], [1000])).tolist() == [0]
        assert match(truth, stars([52.01], [50], [1000])).tolist() == [-1]

    @pytest.mark.parametrize(("flux", "partner"), [(501, 0), (499, -1), (1999, 0), (2001, -1)])
    def test_flux_within_a_factor_2(self, flux, partner):
        assert match(truth_of([50], [50], [1000]), stars([50], [50], [flux])).tolist() == [partner]

    def test_one_to_one_brightest_first(self):
        truth = truth_of([50, 51], [50, 50], [1000, 1500])
        assert match(truth, stars([50.2], [50], [1200])).tolist() == [-1, 0]

    def test_second_choice_when_the_nearest_is_taken(self):
        truth = truth_of([50, 50.5], [50, 50], [1500, 1000])
        assert match(truth, stars([50.4, 52], [50, 50], [1200, 1200])).tolist() == [0, 1]

    @pytest.mark.parametrize(("n_true", "n_found"), [(0, 0), (0, 3), (3, 0)])
    def test_nothing_to_match(self, n_true, n_found):
        truth, found = truth_of(*(np.ones(n_true),) * 3), stars(*(np.ones(n_found),) * 3)
        assert match(truth, found).tolist() == [-1] * n_true


class TestFigures:
    """P116, P119, P121: every figure on a catalogue whose figures are known by hand."""

    def test_perfect_catalogue(self):
        flux = np.full(N, 1000.0)
        figures = score(truth_of(*GRID, flux), stars(*GRID, flux))
        assert figures.n_match == figures.n_cat == N
        assert (figures.f1_snr5, figures.f1_snr10) == (1, 1)
        (only,) = figures.bins
        assert (only.snr, only.n, only.completeness) == ("20-50", N, 1)
        assert (only.bias_mmag, only.scatter, only.pull_med, only.pos_med) == (0, 0, 0, 0)

    def test_completeness_false_fraction_and_f1(self):
        """Three quarters found, and one entry in four is false: both rates 0.75, F1 0.75."""
        flux = np.full(N, 1000.0)
        keep = np.arange(N) % 4 > 0
        n = int(keep.sum())
        x = np.append(GRID[0][keep], GRID[0][: n // 3] + 4)
        y = np.append(GRID[1][keep], GRID[1][: n // 3] + 4)
        figures = score(truth_of(*GRID, flux), stars(x, y, np.full(len(x), 1000.0)))
        assert figures.completeness_snr10 == pytest.approx(0.75)
        assert figures.false_frac_snr10 == pytest.approx(0.25)
        assert figures.f1_snr10 == pytest.approx(0.75)

    def test_bias_scatter_pulls_and_positions(self):
        rng = np.random.default_rng(5)
        flux = np.full(N, 1000.0)
        noise = rng.normal(0, 20, N)
        figures = score(truth_of(*GRID, flux), stars(GRID[0] + 0.3, GRID[1] - 0.4, flux * 1.05 + noise, 10.0))
        (only,) = figures.bins
        assert only.bias_mmag == pytest.approx(-2500 * np.log10(np.median(1.05 + noise / 1000)))
        assert only.scatter == pytest.approx(robust_width(noise / 1000))
        assert only.pull_med == pytest.approx(np.median(50 + noise) / 10)
        assert only.pull_mad == pytest.approx(robust_width(noise / 10))
        assert only.pos_med == pytest.approx(0.5)
        assert np.isnan(only.pos_pull)  # positions without errors

    def test_pulls_of_positions(self):
        """x and y count together; stars whose errors are twice too small have pulls of width 2."""
        rng = np.random.default_rng(6)
        off, flux = rng.normal(0, 0.02, (N, 2)), np.full(N, 1000.0)
        found = Table(
            {"x": GRID[0] + off[:, 0], "y": GRID[1] + off[:, 1], "flux": flux, "flux_err": flux / 50}
        )
        found["x_err"], found["y_err"] = 0.01, 0.01
        (only,) = score(truth_of(*GRID, flux), as_stars(found)).bins
        assert only.pos_pull == pytest.approx(robust_width(off.ravel() / 0.01))
        assert only.pos_pull == pytest.approx(2, abs=0.3)

    def test_zero_point_is_removed(self):
        """Bright stars carry the constant; the faint ones must come out unbiased and keep their pulls."""
        flux = np.where(np.arange(N) % 2, 1000.0, 1e6)
        figures = score(truth_of(*GRID, flux), stars(*GRID, 1.1 * flux + 11, 11.0))
        assert figures.zp_mmag == pytest.approx(-2500 * np.log10(1.1 + 11e-6))
        faint, bright = figures.bins
        assert bright.bias_mmag == pytest.approx(0, abs=1e-6)
        assert faint.pull_med == pytest.approx(1, rel=0.01)

    def test_border_and_masked_cores_are_left_out(self):
        flux = [1000.0, 1000.0, 1000.0]
        truth = truth_of([10, 50, 90], [50, 50, 50], flux, clean=[True, True, False])
        figures = score(truth, stars([10, 90, 120], [50, 50, 185], flux))
        assert figures.completeness_snr10 == 0
        assert figures.bins[0].n == 1
        assert figures.n_match == 1
        assert figures.false_frac_snr10 == 0

    def test_empty_catalogue(self):
        figures = score(truth_of(*GRID, np.full(N, 1000.0)), stars([], [], []))
        assert (figures.n_cat, figures.completeness_snr5, figures.false_frac_snr5, figures.f1_snr5) == (
            0,
            0,
            0,
            0,
        )
        assert figures.as_dict()["bins"][0]["scatter"] is None

    def test_bins_hold_their_stars(self):
        """S/N = f / sqrt(100 + f): 7, 15, 30, 100 and 500."""
        snr = np.array([7, 15, 30, 100, 500.0])
        flux = snr**2 / 2 + np.sqrt(snr**4 / 4 + 100 * snr**2)
        figures = score(truth_of(np.arange(5) * 30 + 30, np.full(5, 90), flux), stars([], [], []))
        assert [b.snr for b in figures.bins] == ["5-10", "10-20", "20-50", "50-200", "200-inf"]
        assert [b.n for b in figures.bins] == [1] * 5
        assert figures.bin("20-50") is figures.bins[2]
        assert figures.bin("1-2") is None


class TestDensity:
    def test_density_is_counted_per_square_fwhm(self):
        """On a grid of 10 px with FWHM 4 the circle of 16 px around a star holds 8 others: 8 / (pi 4^2)."""
        truth = truth_of(*GRID, np.full(N, 1000.0))
        figures = score(truth, stars(*GRID, np.full(N, 1000.0)))
        per_area = 8 / (np.pi * 16)
        (inner,) = [b for b in figures.density_bins if b.density == "0.1-0.2"]
        assert 0.1 < per_area < 0.2
        # those at the border of the grid have fewer neighbours
        (outer,) = [b for b in figures.density_bins if b.density == "0.05-0.1"]
        assert (inner.n, outer.n) == (14**2, N - 14**2)
        around = local_density(truth, stars([100], [100], [1.0]))
        assert around[0] == pytest.approx(12 / (np.pi * 16))  # 4 at 7.1 px and 8 at 15.8 px

    def test_faint_stars_do_not_crowd(self):
        """Below S/N 5 (flux 64 with the error of 10 here) a star is noise."""
        truth = truth_of([100, 101, 102], [100] * 3, [1000.0, 60.0, 70.0])
        assert local_density(truth, stars([100], [100], [1.0]))[0] == pytest.approx(2 / (np.pi * 16))

    def test_figures_belong_to_their_bin(self):
        """A pair loses one star and has a false entry; a lone star is found: each in its own bin."""
        flux = [1000.0] * 3
        truth = truth_of([50, 53, 150], [50, 50, 150], flux)
        pair = 1 / (np.pi * 16)
        assert pair < 0.05
        crowd = truth_of([50, 53, 50, 53, 150], [50, 50, 53, 53, 150], [1000.0] * 5)
        figures = score(crowd, stars([50, 57, 150], [50, 57, 150], flux))
        lone, four = figures.density_bins
        assert (lone.density, lone.n, lone.completeness, lone.false_frac, lone.f1) == ("0-0.05", 1, 1, 0, 1)
        assert (four.density, four.n, four.completeness, four.false_frac) == ("0.05-0.1", 4, 0.25, 0.5)
        assert four.f1 == pytest.approx(2 * 0.25 * 0.5 / 0.75)
        (all_in_one,) = score(truth, stars([50], [50], [1000.0])).density_bins
        assert all_in_one.n == 3

    def test_bins_add_up(self):
        """Every star above S/N 10 is in one density bin, and the false entries too."""
        rng = np.random.default_rng(3)
        x, y, flux = rng.uniform(20, 180, 3000), rng.uniform(20, 180, 3000), 200 * rng.pareto(0.8, 3000) + 50
        truth = truth_of(x, y, flux)
        keep = rng.uniform(size=3000) < 0.7
        found = stars(
            np.append(x[keep], rng.uniform(20, 180, 300)),
            np.append(y[keep], rng.uniform(20, 180, 300)),
            np.append(flux[keep], rng.choice(flux, 300)),
        )
        figures = score(truth, found)
        n = sum(b.n for b in figures.density_bins)
        assert n == sum(b.n for b in figures.bins if b.snr != "5-10")
        complete = sum(b.n * b.completeness for b in figures.density_bins) / n
        assert complete == pytest.approx(figures.completeness_snr10)

    def test_false_entries_belong_to_the_bin_of_their_own_snr(self):
        truth = truth_of([50, 90], [50, 90], [1000.0, 1e5])
        figures = score(truth, stars([50, 120, 150], [50, 120, 150], [1000.0, 1000.0, 900.0]))
        assert figures.bin("20-50").false_frac == pytest.approx(2 / 3)
        assert figures.bin("20-50").f1 == pytest.approx(0.5)
        assert figures.bin("200-inf").false_frac == 0


class TestFiles:
    @pytest.mark.parametrize("error", ["flux_err", "dflux"])
    @pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
    def test_catalogue(self, tmp_path, error, suffix):
        path = tmp_path / f"cat{suffix}"
        flux = [10.0, np.nan, -3.0, 40.0]
        table = QTable(
            {"x": np.arange(4.0) * u.pix, "y": np.ones(4) * u.pix, "flux": flux, error: np.full(4, 2.0)}
        )
        table.write(path)
        found = read_catalog(path)
        assert found.x.tolist() == [0, 3]
        assert found.flux.tolist() == [10, 40]
        assert found.err.tolist() == [2, 2]

    def test_catalogue_without_errors(self):
        found = as_stars(Table({"x": [1.0], "y": [2.0], "flux": [3.0]}))
        assert np.isnan(found.err).all()

    def test_truth(self, tmp_path):
        made = simulate(Scene(ny=64, nx=80, n_stars=50, fwhm=3.0, bad_pixels=0.05))
        truth = read_truth(made.write(tmp_path / "field.fits"))
        assert truth.fwhm == 3.0
        assert truth.shape == (64, 80)
        assert truth.sky_error == pytest.approx(np.median(made.err) * np.sqrt(4 * np.pi) * 3 / 2.355)
        inside = (np.abs(truth.stars.x - 39.5) < 40) & (np.abs(truth.stars.y - 31.5) < 32)
        row, col = (np.round(v[inside]).astype(int) for v in (truth.stars.y, truth.stars.x))
        np.testing.assert_array_equal(truth.clean[inside], made.dq[row, col] == 0)


@pytest.fixture(scope="module")
def record():
    """Return the scorer of record, a script outside the package."""
    if not RECORD.exists():
        pytest.skip("the scorer of record (../shared/tools/score.py) is not here")
    spec = importlib.util.spec_from_file_location("score_of_record", RECORD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", [1, 2])
def test_same_numbers_as_the_scorer_of_record(record, tmp_path, seed):
    """A catalogue with everything wrong in it: noise, losses, false entries, blends, a zero point."""
    scene = Scene(
        ny=300,
        nx=320,
        n_stars=6000,
        fwhm=3.0,
        saturation=60_000.0,
        bad_pixels=1e-3,
        dead_columns=2,
        seed=seed,
    )
    path = simulate(scene).write(tmp_path / "field.fits")
    truth = read_truth(path)
    rng = np.random.default_rng(seed)
    true = Table(fits.getdata(path, "TRUTH"))
    true = true[(truth.snr(truth.stars.flux) > 3) & (rng.uniform(size=len(true)) < 0.9)]
    n = len(true)
    error = np.sqrt(truth.sky_error**2 + true["flux"])
    x = np.append(true["x"] + rng.normal(0, 0.4, n), rng.uniform(0, 320, n // 5))
    y = np.append(true["y"] + rng.normal(0, 0.4, n), rng.uniform(0, 300, n // 5))
    flux = np.append(1.02 * true["flux"] + rng.normal(0, 1.5, n) * error, rng.choice(true["flux"], n // 5))
    catalog = Table({"x": x, "y": y, "flux": flux, "dflux": np.append(error, np.full(n // 5, 1.0))})
    expected = record.score(str(path), catalog)
    figures = score(truth, as_stars(catalog))
    assert figures.n_match > 1000
    for key in ("n_cat", "n_match"):
        assert getattr(figures, key) == expected[key]
    assert round(figures.zp_mmag, 1) == expected["zp_mmag"]
    for limit in (5, 10):
        for key in ("completeness", "false_frac", "f1"):
            assert round(getattr(figures, f"{key}_snr{limit}"), 4) == expected[f"{key}_snr{limit}"]
    assert [b.snr for b in figures.bins] == [b["snr"] for b in expected["bins"]]
    digits = {"bias_mmag": 1, "pull_med": 2, "pull_mad": 2}
    for mine, theirs in zip(figures.bins, expected["bins"], strict=True):
        for key, value in theirs.items():
            if key != "snr":
                assert round(getattr(mine, key), digits.get(key, 4)) == value
