"""The sky that follows nebulosity, on a nebula of known shape."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.nebula import NebulaSky
from crowdfit.stages.sky import MeshSky

SHAPE = (160, 170)
FWHM = 2.5


@pytest.fixture(scope="module")
def scene():
    """A nebula smooth over three FWHM, its scatter 20 times the noise, and 60 stars of the model; noise 1."""
    rng = np.random.default_rng(5)
    psf = moffat(FWHM, 3.0, radius=20)
    nebula = gaussian_filter(rng.normal(0, 1, SHAPE), 3 * FWHM, mode="wrap")
    nebula = 500 + 20 * nebula / nebula.std()
    x, y = rng.uniform(5, SHAPE[1] - 5, 60), rng.uniform(5, SHAPE[0] - 5, 60)
    stars = Sources.at(x, y, rng.uniform(300, 3000, 60))
    light = render(psf, stars.x, stars.y, stars.flux, SHAPE)
    data = (nebula + light + rng.normal(0, 1, SHAPE)).astype(np.float32)
    start = Frame.start(Exposure.of(data, np.ones(SHAPE)), psf, StampSizes())
    return start.rendered(stars), stars, nebula


def test_nebula_is_followed(scene):
    """A mesh of 30 FWHM leaves most of the structure; the surfaces leave less than a tenth of it."""
    frame, stars, nebula = scene
    (old,) = MeshSky(least_snr=0)((frame,), stars, pass_no=5)
    (new,) = NebulaSky()((frame,), stars, pass_no=5)
    assert np.std(old.sky - nebula) > 10
    assert np.std(new.sky - nebula) < 2
    assert abs(np.median(new.sky - nebula)) < 0.5


def test_structure_is_noise(scene):
    """What is left enters the weights: they are never above those of the error image."""
    frame, stars, _ = scene
    (new,) = NebulaSky()((frame,), stars, pass_no=5)
    assert new.structure is not None
    assert np.all(new.structure >= 0)
    assert np.all(new.fit_ivar <= frame.fit_ivar)


def test_plain_sky_stays_plain(scene):
    """Without a nebula the surfaces stay within a fifth of the noise, and hardly any structure noise is added."""
    frame, stars, nebula = scene
    flat = frame.with_(exposure=Exposure.of(frame.exposure.data - nebula + 500, np.ones(SHAPE)))
    (new,) = NebulaSky()((flat,), stars, pass_no=5)
    assert np.std(new.sky - 500) < 0.2
    assert np.median(new.structure) < 0.5


def test_knots_stay(scene):
    """A PSF that becomes half a per cent wider between two passes does not move the sky by a tenth of the noise."""
    frame, stars, _ = scene
    wider = frame.with_(psf=moffat(1.005 * FWHM, 3.0, radius=20))
    (before,), (after,) = (NebulaSky()((one,), stars, pass_no=5) for one in (frame, wider))
    assert np.std(after.sky - before.sky) < 0.1
