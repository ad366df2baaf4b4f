"""The model image: every star in it once, whatever the tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdfit.render import TILE, add_to, render
from crowdfit.sources import Sources
from tests.reference import EPS
from tests.reference import render as twins
from tests.reference.scenes import varying_psf


def test_field(crowd, small_psf):
    """A crowd over several tiles, stars across the border, against one star after the other."""
    shape = (TILE + 9, 2 * TILE + 5)
    s = crowd(60, shape)
    half = np.full(60, small_psf.radius)
    expected = twins.add_stars(
        small_psf.coef, small_psf.basis(s.x, s.y), s.x, s.y, s.flux, half, np.zeros(shape)
    )
    image = render(small_psf, s.x, s.y, s.flux, shape)
    assert image.dtype == np.float32
    assert np.allclose(image, expected, rtol=4 * EPS, atol=32 * EPS * s.flux.max() * small_psf.cube.max())


def test_flux_is_the_sum(small_psf):
    """P036: a star inside leaves its flux in the image, but for wings that a shift moves over the rim."""
    for x, y in ((30.0, 31.0), (30.2, 31.7), (30.5, 31.5)):
        image = render(small_psf, x, y, 1000.0, (64, 64))
        assert image.sum(dtype=float) == pytest.approx(1000, rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y"), [(-0.499, 10), (39.499, 0), (-8, -8), (60.0, 20), (1e6, 5), (-1e6, -1e6)]
)
def test_star_on_the_edge_or_off_the_image(small_psf, x, y):
    """The image is a cut-out of a larger one."""
    image = render(small_psf, x, y, 1.0, (40, 40))
    if abs(x) > 100:
        assert not image.any()
        return
    large = render(small_psf, x + 30, y + 30, 1.0, (100, 100))
    assert np.allclose(image, large[30:70, 30:70], rtol=0, atol=32 * EPS * small_psf.cube.max())


def test_image_smaller_than_the_psf(small_psf):
    image = render(small_psf, 1.0, 2.0, 1.0, (5, 3))
    assert np.allclose(image, small_psf.stamp(1.0, 2.0)[12:17, 13:16], rtol=0, atol=1e-7)


def test_radius(small_psf):
    """A stamp ends at its half width; one wider than the PSF ends with the PSF."""
    one = render(small_psf, 20, 20, 1.0, (41, 41), radius=5)
    assert np.count_nonzero(one) == 11**2
    every = render(small_psf, [20, 20], [20, 20], [1.0, -1.0], (41, 41), radius=[5, 1000])
    assert np.abs(every[15:26, 15:26]).max() < 1e-7
    assert np.count_nonzero(every[:15]) == 9 * 29


def test_nothing_to_add(small_psf):
    image = np.ones((5, 6), np.float32)
    empty = Sources.empty()
    add_to(image, small_psf, empty.x, empty.y, empty.flux)
    assert np.all(image == 1)


@pytest.mark.parametrize("order", [1, 2])
def test_psf_that_varies(order):
    """Each star has the PSF of its own place."""
    psf = varying_psf(order)
    image = render(psf, [8.3, 33.0], [9.0, 30.2], [10.0, 20.0], (40, 44))
    left = image - render(psf.at(8.3, 9.0), 8.3, 9.0, 10.0, (40, 44))
    left -= render(psf.at(33.0, 30.2), 33.0, 30.2, 20.0, (40, 44))
    assert np.abs(left).max() < 1e-5


@given(data=st.data())
def test_adding_and_subtracting_returns_the_image(data, small_psf):
    """Law: to the rounding of the brighter of both."""
    at = st.floats(-20, 70)
    x, y, flux = data.draw(at), data.draw(at), data.draw(st.floats(-1e6, 1e6))
    image = np.random.default_rng(1).normal(100, 10, (50, 55)).astype(np.float32)
    before = image.copy()
    add_to(image, small_psf, x, y, flux)
    add_to(image, small_psf, x, y, -flux)
    scale = 100 + abs(flux) * small_psf.cube.max()
    assert np.abs(image - before).max() <= 32 * EPS * scale


def test_threads(crowd, small_psf, same_bits):
    """Same bits on 1 and 2 threads."""
    s = crowd(300, (150, 150))
    same_bits(lambda: [render(small_psf, s.x, s.y, s.flux, (150, 150))])
