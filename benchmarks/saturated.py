"""Saturated stars: how many are found once, how good flux and place are, and how many false sources stand round them.

    python -m benchmarks.saturated --scenes sparse dense --seeds 31 32 33

The scene with another luminosity function (`LUMINOSITY`), on 768 x 768 pixels: stars of up to 1e8 e-, blobs up to 15
px across. Counted is the brightest true star of every saturated blob whose centre lies on a saturated pixel, off the
border. It is *found once* when the catalogue has one entry on the saturated pixels of its blob, and *good* when besides
that entry's flux is within 10 % and its place within 0.15 FWHM of the truth. It is *alone* when the other true stars on
the blob have less than a tenth of its light together: with more, no single entry holds both the flux of the one and the
light of all. *False* are entries above S/N 5 without a star, as in `benchmarks.score`, within 10 FWHM of such stars
(`near`) and farther off (`far`); their ratio is that of the numbers per area. Few are expected near the stars of one
`sparse` field, so that only the sum over several seeds tells anything.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

import crowdfit
from benchmarks.run import append, provenance
from benchmarks.scenes import bench_scene
from benchmarks.score import BORDER, F64, Stars, Truth, as_stars, match, truth_of
from crowdfit.simulate import Scene, Simulated, simulate

SIDE = 768
"""Pixels along each axis."""
N_STARS = {"dense": 35_000, "sparse": 2_300}
"""About as many per pixel as the scene has."""
LUMINOSITY: dict[str, Any] = {"flux_max": 1e8, "slope": 0.6}
EDGE = 3.0
"""Stars closer to the edge than this are not counted (pix)."""
FLUX, PLACE = 0.1, 0.15
"""Largest departures of a good entry: share of the flux, and FWHM."""
ALONE = 0.1
"""Other stars on the blob have less than this share of the light of one that is alone."""
NEAR = 10.0
"""False sources are counted within so many FWHM."""


@dataclass(frozen=True, kw_only=True)
class Saturated:
    """The figures of one field.

    Parameters
    ----------
    n, n_once, n_good : int
        Stars counted, found once, and good.
    n_alone, n_alone_good : int
        Those alone on their blob, and good ones among them.
    flux_median, flux_95 : float
        Median and 95 % quantile of the departure of the flux, as a share.
    place_median, place_95 : float
        The same of the place (FWHM).
    false_near, false_far : int
        False entries near these stars, and elsewhere.
    area_near : float
        Share of the area that is near them.
    largest_blob : float
        Diameter of the circle of the area of the largest blob (pix).
    """

    n: int
    n_once: int
    n_good: int
    n_alone: int
    n_alone_good: int
    flux_median: float
    flux_95: float
    place_median: float
    place_95: float
    false_near: int
    false_far: int
    area_near: float
    largest_blob: float

    @property
    def expected_near(self) -> float:
        """False entries that the area near the stars would have at the rate elsewhere."""
        return self.false_far * self.area_near / max(1 - self.area_near, 1e-9)


def saturated_scene(name: str, seed: int) -> Scene:
    """Return the scene of a name of `N_STARS`, with stars that saturate."""
    return replace(bench_scene(name, seed), ny=SIDE, nx=SIDE, n_stars=N_STARS[name], **LUMINOSITY)


def numbers_at(blobs: NDArray[np.integer], x: F64, y: F64) -> NDArray[np.integer]:
    """Return the number of the blob at each place, 0 for none and off the image."""
    ny, nx = blobs.shape
    col, row = np.rint(x).astype(int), np.rint(y).astype(int)
    on = (col >= 0) & (col < nx) & (row >= 0) & (row < ny)
    return np.where(on, blobs[np.clip(row, 0, ny - 1), np.clip(col, 0, nx - 1)], 0)


def measure(made: Simulated, found: Stars) -> Saturated:
    """Return the figures of a catalogue of a field with at least one saturated star.

    Parameters
    ----------
    made : Simulated
        The field.
    found : Stars
        The catalogue.
    """
    truth, saturated = truth_of(made), made.exposure.saturated
    ny, nx = saturated.shape
    blobs, _ = ndimage.label(saturated, np.ones((3, 3)))
    stars = truth.stars
    inside = (stars.x > EDGE) & (stars.x < nx - 1 - EDGE) & (stars.y > EDGE) & (stars.y < ny - 1 - EDGE)
    at = np.where(inside, numbers_at(blobs, stars.x, stars.y), 0)
    entries = np.bincount(numbers_at(blobs, found.x, found.y), minlength=blobs.max() + 1)
    on_blob = np.flatnonzero(at)
    by_flux = on_blob[np.argsort(-stars.flux[on_blob], kind="stable")]
    number, first = np.unique(at[by_flux], return_index=True)
    main = by_flux[first]
    distance, nearest = cKDTree(found.places).query(stars.places[main])
    flux, place = np.abs(found.flux[nearest] / stars.flux[main] - 1), distance / truth.fwhm
    once = entries[number] == 1
    good = once & (flux < FLUX) & (place < PLACE)
    light = np.bincount(at[on_blob], stars.flux[on_blob], blobs.max() + 1)[number]
    alone = light - stars.flux[main] < ALONE * stars.flux[main]
    false, near, area = false_entries(truth, found, stars.places[main])
    return Saturated(
        n=len(main), n_once=int(once.sum()), n_good=int(good.sum()),
        n_alone=int(alone.sum()), n_alone_good=int((alone & good).sum()),
        flux_median=float(np.median(flux)), flux_95=float(np.quantile(flux, 0.95)),
        place_median=float(np.median(place)), place_95=float(np.quantile(place, 0.95)),
        false_near=int((false & near).sum()), false_far=int((false & ~near).sum()), area_near=area,
        largest_blob=float(np.sqrt(np.bincount(blobs[blobs > 0]).max() * 4 / np.pi)),
    )  # fmt: skip


def false_entries(
    truth: Truth, found: Stars, places: F64
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], float]:
    """Return which entries are false, which lie near `places` (n, 2), and the share of the area near them."""
    partner = match(truth, found)
    free = np.ones(len(found), bool)
    free[partner[partner >= 0]] = False
    false = free & (truth.snr(found.flux) > 5) & truth.inside(found)
    tree, radius = cKDTree(places), NEAR * truth.fwhm
    ny, nx = truth.shape
    yy, xx = np.mgrid[BORDER : ny - BORDER, BORDER : nx - BORDER]
    to_pixel, _ = tree.query(np.column_stack([xx.ravel(), yy.ravel()]))
    to_entry, _ = tree.query(found.places)
    return false, np.asarray(to_entry < radius), float(np.mean(to_pixel < radius))


def line(name: str, figures: Sequence[Saturated]) -> str:
    """Return one line for one or several fields taken together."""
    n, near = sum(f.n for f in figures), sum(f.false_near for f in figures)
    expected, alone = sum(f.expected_near for f in figures), sum(f.n_alone for f in figures)
    flux, place = (
        float(np.median([getattr(f, k) for f in figures])) for k in ("flux_median", "place_median")
    )
    return (
        f"{name:12s} stars {n:4d}, once {sum(f.n_once for f in figures) / n:.3f}, "
        f"good {sum(f.n_good for f in figures) / n:.3f} (alone on the blob, {alone}: "
        f"{sum(f.n_alone_good for f in figures) / max(alone, 1):.3f}), flux off by {flux:.4f}, "
        f"place by {place:.4f} FWHM, false near {near}, expected {expected:.1f}: {near / max(expected, 1e-9):.2f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Fit the fields, and print a line for each and for all of a scene together."""
    parser = argparse.ArgumentParser(prog="benchmarks.saturated", description="Stars with saturated cores.")
    parser.add_argument("--scenes", nargs="+", choices=tuple(N_STARS), default=list(N_STARS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[31, 32, 33])
    parser.add_argument("--out", type=Path, help="JSON lines are appended to this file")
    args = parser.parse_args(argv)
    facts = provenance()
    for name in args.scenes:
        figures = []
        for seed in args.seeds:
            made = simulate(saturated_scene(name, seed))
            result = crowdfit.fit_image(made.exposure)
            figures.append(measure(made, as_stars(result.catalog)))
            record = {"field": f"saturated_{name}", "seed": seed, "passes": len(result.history)}
            if args.out is not None:
                append(facts | record | asdict(figures[-1]), args.out)
            print(line(f"{name} {seed}", figures[-1:]), flush=True)
        if len(figures) > 1:
            print(line(f"{name} all", figures))


if __name__ == "__main__":
    main()
