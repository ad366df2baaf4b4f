"""Several synthetic exposures of one star field: dithered, turned, of other depth, width or filter.

All show the same stars; each has its own noise, its own PSF, and a WCS that says where it points, perhaps wrongly.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from crowdfit.exposure import Exposure
from crowdfit.scene import Scene
from crowdfit.simulate import Simulated, draw_stars, simulate

__all__ = ["Pointed", "Pointing", "point"]

F64 = NDArray[np.float64]

PIXEL = 0.05 / 3600
"""Size of a pixel (deg)."""
CENTRE = (150.1, 2.2)
"""RA and Dec of the middle of the first exposure (deg)."""


@dataclass(frozen=True)
class Pointing:
    """How one exposure is taken.

    Parameters
    ----------
    dx, dy : float
        A star in the middle of the scene lies this far from the middle of the exposure (pix).
    rotation : float
        Turn of the stars on the exposure, from x towards y (deg).
    scale : float
        Pixels of the exposure for one of the scene.
    time : float
        Exposure time in units of that of the scene: multiplies sky and stars.
    fwhm : float or None
        FWHM of its PSF (pix); None: that of the scene.
    band : str
        Filter.
    colour : float
        Scatter of ln(flux) of the stars between this filter and that of the scene; drawn once for each filter.
    error_x, error_y : float
        By how much its WCS is wrong (pix).
    """

    dx: float = 0.0
    dy: float = 0.0
    rotation: float = 0.0
    scale: float = 1.0
    time: float = 1.0
    fwhm: float | None = None
    band: str = "F1"
    colour: float = 0.0
    error_x: float = 0.0
    error_y: float = 0.0

    def matrix(self) -> F64:
        """Return what turns offsets of the scene into those of the exposure, (2, 2)."""
        angle = np.radians(self.rotation)
        return self.scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@dataclass(frozen=True, eq=False)
class Pointed:
    """One exposure: image and truth on its own pixels, and the exposure as a fit takes it, with WCS and filter."""

    made: Simulated
    exposure: Exposure


def point(scene: Scene, pointings: list[Pointing]) -> list[Pointed]:
    """Return the exposures of a scene; row k of each truth is the same star.

    Parameters
    ----------
    scene : Scene
        The stars, and what holds for all exposures. Stars lie up to `scene.margin` beyond it.
    pointings : list of Pointing
        How each exposure is taken; all have the size of the scene.
    """
    places, fluxes, colours = np.random.default_rng(scene.seed).spawn(3)
    stars = draw_stars(scene, places, fluxes)
    bands = sorted({pointing.band for pointing in pointings})
    shades = {
        band: rng.normal(size=len(stars)) for band, rng in zip(bands, colours.spawn(len(bands)), strict=True)
    }
    return [
        _pointed(scene, pointing, stars, shades[pointing.band], number)
        for number, pointing in enumerate(pointings, start=1)
    ]


def _pointed(scene: Scene, pointing: Pointing, stars: Table, shade: F64, number: int) -> Pointed:
    middle = np.array([(scene.nx - 1) / 2, (scene.ny - 1) / 2])
    offsets = np.column_stack([stars["x"], stars["y"]]) - middle
    there = offsets @ pointing.matrix().T + middle + [pointing.dx, pointing.dy]
    own = Table(
        {
            "x": there[:, 0],
            "y": there[:, 1],
            "flux": np.asarray(stars["flux"]) * pointing.time * np.exp(pointing.colour * shade),
        },
        units={"x": "pix", "y": "pix"},
    )
    taken = dataclasses.replace(scene, sky=scene.sky * pointing.time, fwhm=pointing.fwhm or scene.fwhm)
    made = simulate(taken, stars=own, noise_seed=number)
    exposure = dataclasses.replace(
        made.exposure,
        wcs=_wcs(pointing, middle),
        band=pointing.band,
        name=f"exposure{number}",
        meta={"EXPTIME": 100 * pointing.time},
        unit="electron" if scene.gain == 1 else "",
    )
    return Pointed(made, exposure)


def _wcs(pointing: Pointing, middle: F64) -> object:
    from astropy.wcs import WCS  # noqa: PLC0415 - slow to import

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = list(CENTRE)
    wcs.wcs.crpix = middle + 1 + [pointing.dx + pointing.error_x, pointing.dy + pointing.error_y]
    wcs.wcs.cd = np.array([[-PIXEL, 0], [0, PIXEL]]) @ np.linalg.inv(pointing.matrix())
    wcs.wcs.set()
    return wcs
