"""The split of a large image: who owns whom, one consistent fit, and the ceiling on memory."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdfit import tiles
from crowdfit.api import fit_image
from crowdfit.errors import ConfigError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.memory import resident_mb
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.scene import SCENES
from crowdfit.simulate import simulate
from crowdfit.stages.solve import PcgSolve
from crowdfit.stages.system import Normal, System
from crowdfit.tiles import Tile, Tiles

SHAPE = (120, 150)
LAYOUTS = ((1, 1), (2, 2), (4, 4), (1, 7), (3, 5))


@st.composite
def stars(draw):
    """Positions on and off an image, half widths, and who overlaps whom."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 120))
    x, y = rng.uniform(-8, SHAPE[1] + 8, n), rng.uniform(-8, SHAPE[0] + 8, n)
    half = rng.choice([2, 4, 7, 20], n, p=[0.4, 0.4, 0.15, 0.05]).astype(np.int64)
    eq = Normal.empty(x, y, half, SHAPE)
    return x, y, half, eq.first, eq.links


def check_partition(cores, n):
    """Every star belongs to one core, and the numbers in a core rise."""
    assert np.array_equal(np.sort(np.concatenate(cores)), np.arange(n))
    assert all(np.all(np.diff(core) > 0) for core in cores)
    assert all(len(core) for core in cores)


class TestTiling:
    @given(stars(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
    def test_grid(self, field, layout):
        """Every star has one tile, the one that its pixel is in; those off the image belong to the nearest."""
        x, y, *_ = field
        cores = tiles.grid(x, y, SHAPE, layout)
        check_partition(cores, len(x))
        for core in cores:
            rows = {int(np.clip((v + 0.5) * layout[0] / SHAPE[0], 0, layout[0] - 1)) for v in y[core]}
            cols = {int(np.clip((u + 0.5) * layout[1] / SHAPE[1], 0, layout[1] - 1)) for u in x[core]}
            assert len(rows) == len(cols) == 1

    @given(stars(), st.floats(0.02, 1.2))
    def test_cut_by_memory(self, field, share):
        """Tiles keep to the limit, unless a single star does not; all stars have a tile of their own."""
        x, y, half, first, links = field
        cost = tiles.BYTES * (2.0 * half + 1) ** 2
        most = share * cost.sum()
        found = list(tiles.visit(x, y, half, first, links, [np.arange(len(x))], most))
        check_partition([tile.core for tile in found], len(x))
        for tile in found:
            assert len(tile.core) == 1 or cost[np.concatenate(tile)].sum() <= most
        assert (len(found) == 1) == (share >= 1 or len(x) == 1)

    @given(stars(), st.tuples(st.integers(1, 5), st.integers(1, 5)))
    def test_halo(self, field, layout):
        """The stars beyond the core that overlap one of it with a higher number, by comparing all pairs of stamps."""
        x, y, half, first, links = field
        col, row = np.floor(x + 0.5), np.floor(y + 0.5)
        gap = half[:, None] + half
        overlap = (np.abs(col[:, None] - col) <= gap) & (np.abs(row[:, None] - row) <= gap)
        for core in tiles.grid(x, y, SHAPE, layout):
            needed = {
                j
                for i in core
                for j in range(len(x))
                if overlap[i, j] and j < i and j not in set(core.tolist())
            }
            assert tiles.halo(core, first, links).tolist() == sorted(needed)

    def test_halves_are_even(self):
        """Across the longer side, by cost and not by number."""
        x, y = np.arange(10.0), np.zeros(10)
        cost = np.array([9.0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        low, high = tiles.halved(np.arange(10), x, y, cost)
        assert low.tolist() == [0]
        assert high.tolist() == list(range(1, 10))


@pytest.fixture(scope="module")
def crowded(crowd):
    """Return a frame with confusion, whose stars are off by a little, and its stars."""
    psf, truth = moffat(3.0, 3.5, radius=25), crowd(700, SHAPE, flux=(200, 3e5))
    rng = np.random.default_rng(4)
    image = render(psf, truth.x, truth.y, truth.flux, SHAPE)
    image += rng.normal(0, np.sqrt(100 + image)).astype(np.float32)
    ivar = np.where(rng.random(SHAPE) < 0.02, 0, 1 / 100)
    frame = Frame.start(Exposure.of(image, ivar, gain=1.0), psf, StampSizes())
    start = truth.changed(flux=truth.flux * 0.8)
    return replace(frame, confusion=300.0).rendered(start), start


class TestSystem:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("shifts", [False, True])
    def test_same_bits(self, crowded, layout, shifts):
        """Every block and every product of a tiled system is that of the whole one."""
        frame, sources = crowded
        prior = np.full(len(sources), 0.1) if shifts else None
        whole, tiled = (
            System.of(frame.with_(tiles=Tiles(layout=which)), sources, prior=prior)
            for which in ((1, 1), layout)
        )
        assert frame.whitening.kernel is not None
        assert whole.blocks.cross.any()
        for name in ("own", "first", "links", "cross"):
            assert np.array_equal(getattr(whole.blocks, name), getattr(tiled.blocks, name))
        assert np.array_equal(whole.rhs, tiled.rhs)

    def test_threads(self, crowded, same_bits):
        """Tiles come one after the other, and threads share the stars of one: the same bits on any number of them."""
        frame, sources = crowded
        tiled = frame.with_(tiles=Tiles(layout=(3, 5)))

        def work():
            system = System.of(tiled.with_(), sources, prior=np.full(len(sources), 0.1))
            return system.blocks.own, system.blocks.cross, system.rhs, PcgSolve().solve(system).unknowns

        same_bits(work)

    def test_only_one_tile_is_held(self, crowded, monkeypatch):
        """By what the tiles ask for: all stars once, in several parts, none of which has all stamps."""
        frame, sources = crowded
        seen = []
        monkeypatch.setattr(tiles, "MOST", 8e5)
        monkeypatch.setattr(tiles, "LEAST", 4e5)
        plain = tiles.visit

        def noted(*args):
            for tile in plain(*args):
                seen.append(tile)
                yield tile

        monkeypatch.setattr(tiles, "visit", noted)
        half = frame.half_sizes(sources.flux)
        System.of(frame, sources)
        cost = tiles.BYTES * (2.0 * half + 1) ** 2
        assert len(seen) > 3
        assert max(cost[np.concatenate(tile)].sum() for tile in seen) <= 8e5
        assert isinstance(seen[0], Tile)


FIT = {"stop__max_passes": 4, "measure__window": 1.5}


@pytest.fixture(scope="module")
def field():
    """Return a dense field of 256 x 256 pixels."""
    return simulate(replace(SCENES["dense"], ny=256, nx=256, n_stars=4000, dead_columns=1, seed=3))


@pytest.fixture(scope="module")
def whole(field):
    """Return the fit in one piece."""
    return fit_image(field.exposure, tiles__layout=(1, 1), **FIT)


@pytest.mark.parametrize("layout", LAYOUTS[1:4])
def test_layout_has_no_say(field, whole, layout):
    """P094, P096: 2 x 2, 4 x 4 and 1 x 7 tiles give the fit of one piece, bit by bit; stars of an overlap come once."""
    tiled = fit_image(field.exposure, tiles__layout=layout, **FIT)
    assert len(whole.sources) > 600
    for name in whole.catalog.colnames:
        assert np.array_equal(
            np.asarray(whole.catalog[name]), np.asarray(tiled.catalog[name]), equal_nan=True
        ), name
    assert np.array_equal(whole.residual, tiled.residual)
    assert np.array_equal(whole.model, tiled.model)
    assert [s.solver_iterations for s in whole.history] == [s.solver_iterations for s in tiled.history]


def test_no_seam(field, whole):
    """Along the borders of 4 x 4 tiles the residual scatters, and stars lie, as elsewhere within counting noise."""
    tiled = fit_image(field.exposure, tiles__layout=(4, 4), **FIT)
    near = np.abs((np.arange(256) + 32) % 64 - 32) < 5
    border = near[:, None] | near[None, :]
    border[:5] = border[-5:] = border[:, :5] = border[:, -5:] = False
    inside = np.zeros((256, 256), bool)
    inside[5:-5, 5:-5] = True
    good = tiled.exposure.good & inside
    chi = tiled.residual * np.sqrt(tiled.frame.fit_ivar)
    here, there = chi[good & border], chi[good & ~border]
    assert abs(here.mean() - there.mean()) < 5 / np.sqrt(here.size)
    assert abs(here.std() / there.std() - 1) < 5 / np.sqrt(here.size)
    at = tiled.frame.nearest_pixel(tiled.sources)
    n, expected = np.sum((border & inside)[at]), np.sum(inside[at]) * np.mean(border[inside])
    assert abs(n - expected) < 4 * np.sqrt(expected)


class TestCeiling:
    def test_default_is_half_of_what_is_free(self, monkeypatch):
        monkeypatch.setattr(tiles, "resident_mb", lambda: 500.0)
        monkeypatch.setattr(tiles, "free_mb", lambda: 3000.0)
        assert Tiles().with_ceiling(10**6).memory_mb == 2000.0
        assert Tiles(memory_mb=1234).with_ceiling(10**6).memory_mb == 1234

    def test_unknown_memory(self, monkeypatch):
        """Where the system tells nothing there is no ceiling."""
        monkeypatch.setattr(tiles, "resident_mb", lambda: np.nan)
        assert Tiles(memory_mb=1.0).with_ceiling(10**6).memory_mb is None

    @pytest.mark.parametrize("given", [300.0, None])
    def test_too_low(self, monkeypatch, given):
        """Refused at the door, with the least that would do and what to set; what it asks for is then taken."""
        monkeypatch.setattr(tiles, "resident_mb", lambda: 200.0)
        monkeypatch.setattr(tiles, "free_mb", lambda: 150.0)
        with pytest.raises(ConfigError, match="tiles.memory_mb: .*set tiles.memory_mb=") as caught:
            Tiles(memory_mb=given).with_ceiling(4 * 10**6)
        asked = float(str(caught.value).split("set tiles.memory_mb=")[1].split()[0])
        assert Tiles(memory_mb=asked).with_ceiling(4 * 10**6).memory_mb == asked

    def test_less_memory_smaller_tiles(self, crowded, monkeypatch):
        """As large as is fastest, then as fits, then the least that is worth a visit."""
        frame, sources = crowded
        half = frame.half_sizes(sources.flux)
        x, y = sources.x, sources.y
        eq = Normal.empty(x, y, half, SHAPE)
        total = tiles.BYTES * np.sum((2.0 * half + 1) ** 2)
        monkeypatch.setattr(tiles, "MOST", total / 2)
        monkeypatch.setattr(tiles, "LEAST", total / 10)
        monkeypatch.setattr(tiles, "resident_mb", lambda: 100.0)
        monkeypatch.setattr(tiles, "SLACK", 0)
        n = [
            len(list(Tiles(memory_mb=mb).visit(x, y, half, SHAPE, eq.first, eq.links, 0)))
            for mb in (None, 100 + total / 2**20, 100 + total / 4 / 2**20, 50.0)
        ]
        assert 2 <= n[0] == n[1] < n[2] < n[3]
        assert n[3] == len(list(tiles.visit(x, y, half, eq.first, eq.links, [np.arange(len(x))], total / 10)))

    def test_is_full(self):
        assert not Tiles().is_full(1e9)
        assert not Tiles(memory_mb=1000).is_full(900.0)
        assert Tiles(memory_mb=1000).is_full(900.1)


GROWTH = """
import sys
import numpy as np
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.memory import peak_mb, resident_mb
from crowdfit.psf.analytic import moffat
from crowdfit.sources import Sources
from crowdfit.stages.system import System
from crowdfit.tiles import Tiles
rng, shape = np.random.default_rng(1), (512, 512)
exposure = Exposure.of(rng.normal(0, 1, shape), np.ones(shape))
stars = Sources.at(rng.uniform(0, 511, 3000), rng.uniform(0, 511, 3000), np.full(3000, 100.0))
frame = Frame.start(exposure, moffat(3.0, 3.5, radius=40), StampSizes())
System.of(frame, stars.take(np.arange(9)), np.full(9, 30))
room = float(sys.argv[1])
layout, ceiling = ((1, 1), None) if room == 0 else (None, resident_mb() + room)
before = resident_mb()
System.of(frame.with_(tiles=Tiles(layout=layout, memory_mb=ceiling)), stars, np.full(3000, 30))
print(peak_mb() - before)
"""
FIT_BELOW = """
import sys
from dataclasses import replace
from crowdfit.api import fit_image
from crowdfit.errors import ConfigError
from crowdfit.scene import SCENES
from crowdfit.simulate import simulate
scene = replace(SCENES["dense"], ny=256, nx=256, n_stars=4000, dead_columns=1, seed=3)
image = simulate(scene).exposure
try:
    fit_image(image, tiles__memory_mb=100)
except ConfigError as refused:
    asked = str(refused).split("set tiles.memory_mb=")[1].split()[0]
result = fit_image(image, tiles__memory_mb=asked, stop__max_passes=4)
print(asked, result.peak_memory_mb, max(result.stage_memory_mb.values()), result.stop_reason)
"""


def in_a_process(code, *arguments):
    """Return the words that a process of its own prints, whose memory nothing else has touched."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(np.isnan(resident_mb()), reason="the system does not tell how much memory is used")
class TestProcess:
    def test_stamps_stay_below_the_ceiling(self, crowded):
        """128 MB of stamps and 24 MB of matrix: all at once without a ceiling, and within 80 MB with it."""
        assert float(in_a_process(GROWTH, "0")[0]) > 140
        assert float(in_a_process(GROWTH, "80")[0]) < 80

    def test_fit_stays_below_the_ceiling(self, whole):
        """The ceiling that the refusal asks for is enough, and kept by every stage."""
        asked, peak, stages, reason = in_a_process(FIT_BELOW)
        assert reason in {"max_passes", "settled"}
        assert float(stages) <= float(peak) <= float(asked)
