"""One fit over many exposures: depth, scatter, pixel phase, colours and cost.

    python -m benchmarks.joint --size 512 --seeds 11
    python -m benchmarks.joint --bands --size 512 --seeds 11

Dithered exposures of one `undersampled` field are fitted one by one and together. *Depth* is the flux at which half
of the true stars are found, as a gain in magnitudes over one exposure; 1.25 log10(exposures) is the ideal where noise
alone limits it. *Scatter* is the robust width of the flux error over the noise of an isolated star in all exposures
together, for stars above S/N 20 of that noise; the floor has the true PSFs and positions of all stars above S/N 4.
The mean of single catalogues weights each star's detections with their errors. *Phase* is the largest difference of
the median flux in nine parts of a pixel of the first exposure from that of all stars above S/N 100, and what chance
makes of it. *Time* is that of the processor.

With `--bands` a second filter of another depth is added: for stars that the deep filter shows and the shallow one
alone does not (S/N 1 to 3 there), the mean and median error of the fluxes there over their errors, and their summed
flux over the true one in both filters.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.floor import LEAST_SNR, LIGHT_FWHM
from benchmarks.run import RESULTS, append, provenance
from benchmarks.score import Stars, Truth, as_stars, match, robust_width, truth_of
from crowdfit.api import fit_exposures, fit_image
from crowdfit.config import load_config
from crowdfit.frame import Frame, StampSizes
from crowdfit.joint.begin import views_of, whole_box
from crowdfit.joint.options import Joint
from crowdfit.joint.stages import JointStages
from crowdfit.pointings import Pointed, Pointing, point
from crowdfit.render import render
from crowdfit.scene import SCENES, Scene
from crowdfit.sources import Sources
from crowdfit.view import JointSources

F64 = NDArray[np.float64]

DITHERS = (
    (0.0, 0.0),
    (5.5, 3.25),
    (-4.25, 6.5),
    (2.75, -5.75),
    (-6.5, -2.5),
    (8.25, 1.75),
    (-1.25, 8.5),
    (6.0, -8.0),
)
"""Offsets of the exposures (pix), different parts of a pixel each."""
BRIGHT, PHASE = 20.0, 100.0
"""Least S/N of stars for scatter and for the pixel phase."""
CONFIG = "undersampled"


def field(size: int, seed: int) -> Scene:
    """Return the `undersampled` field on `size` x `size` pixels, as dense as the whole."""
    whole = SCENES["undersampled"]
    n_stars = round(whole.n_stars * (size + 2 * whole.margin) ** 2 / (whole.nx + 2 * whole.margin) ** 2)
    return dataclasses.replace(whole, ny=size, nx=size, n_stars=n_stars, seed=seed, dead_columns=1)


def depth(truth: Truth, found: Stars) -> float:
    """Return the flux at which half of the true stars are found, between the bins of a quarter magnitude around it."""
    partner = match(truth, found)
    wanted = truth.inside(truth.stars) & truth.clean
    level = np.log10(truth.stars.flux)
    edges = np.arange(level.min(), level.max(), 0.1)
    number = np.digitize(level, edges)
    share = np.array(
        [
            np.mean(partner[wanted & (number == k)] >= 0) if np.any(wanted & (number == k)) else np.nan
            for k in range(1, len(edges))
        ]
    )
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.flatnonzero(share < 0.5)
    if not len(below) or below[-1] + 1 >= len(share):
        return float(10 ** middle[0])
    k = below[-1]
    return float(10 ** np.interp(0.5, share[k : k + 2], middle[k : k + 2]))


def floor(pointed: Sequence[Pointed], truth: Truth) -> Stars:
    """Return true positions with the fluxes of one linear fit to all exposures, with the true PSFs."""
    views = views_of(tuple(one.exposure for one in pointed), Joint())
    seen = truth.snr(truth.stars.flux) * np.sqrt(len(pointed)) >= LEAST_SNR
    x, y, flux = (values[seen] for values in (truth.stars.x, truth.stars.y, truth.stars.flux))
    n = len(x)
    stars = JointSources.of(Sources.at(x, y, flux), flux[:, None], np.ones((n, 1)))
    frames = []
    for one, view in zip(pointed, views, strict=True):
        frame = Frame.start(one.exposure, one.made.psf, StampSizes()).with_(view=view).rendered(stars)
        own = one.made.truth[np.flatnonzero(seen)]
        whole = render(one.made.psf, own["x"], own["y"], own["flux"], one.made.data.shape)
        fainter = gaussian_filter(one.made.model - whole, LIGHT_FWHM * truth.fwhm, mode="reflect")
        frames.append(frame.with_(sky=one.made.sky + fainter + (whole - frame.model)))
    config = load_config(CONFIG, ["solve.final_tolerance=1e-3", "solve.max_iter=2000"])
    stages = JointStages((config,) * len(frames), Joint(), whole_box(tuple(frames)), (1.0,) * len(frames))
    found = stages.solve(tuple(frames), stars, shifts=False).sources
    return Stars(found.x, found.y, found.flux, found.flux_err)


def mean_catalog(truths: Sequence[Truth], lists: Sequence[Stars]) -> F64:
    """Return the weighted mean flux of each true star over single catalogues, NaN where none has it, (n,)."""
    top, bottom = np.zeros(len(truths[0].stars)), np.zeros(len(truths[0].stars))
    for truth, stars in zip(truths, lists, strict=True):
        partner = match(truth, stars)
        has = partner >= 0
        weight = 1 / stars.err[partner[has]] ** 2
        top[has] += weight * stars.flux[partner[has]]
        bottom[has] += weight
    with np.errstate(invalid="ignore"):
        return np.asarray(top / bottom)


def flux_of(truth: Truth, stars: Stars) -> F64:
    """Return the flux of each true star in a catalogue, NaN where it has none, (n,)."""
    partner = match(truth, stars)
    return np.where(partner >= 0, stars.flux[partner], np.nan)


def without_zero_point(truth: Truth, flux: F64) -> F64:
    """Return fluxes with the median ratio of the stars above S/N 100 taken out."""
    bright = (truth.snr(truth.stars.flux) > PHASE) & np.isfinite(flux)
    return flux / np.median(flux[bright] / truth.stars.flux[bright])


def phase_bias(truth: Truth, flux: F64) -> tuple[float, float]:
    """Return the largest departure of nine parts of a pixel (mmag), and the largest error of their medians."""
    good = (truth.snr(truth.stars.flux) > PHASE) & np.isfinite(flux) & truth.inside(truth.stars) & truth.clean
    ratio = 1085.7 * (flux[good] / truth.stars.flux[good] - 1)
    part = [np.clip(((v[good] + 0.5) % 1 * 3).astype(int), 0, 2) for v in (truth.stars.x, truth.stars.y)]
    number = 3 * part[0] + part[1]
    off, error = [], []
    for k in range(9):
        here = ratio[number == k]
        off.append(np.median(here) - np.median(ratio))
        error.append(1.2533 * robust_width(here) / np.sqrt(len(here)))
    return float(np.max(np.abs(off))), float(np.max(error))


def dithered(size: int, seed: int, n: int) -> dict[str, Any]:
    """Return what n dithered exposures of one field give, fitted one by one and together."""
    pointed = point(field(size, seed), [Pointing(dx=dx, dy=dy) for dx, dy in DITHERS[:n]])
    truths = [truth_of(one.made) for one in pointed]
    began, singles = time.process_time(), []
    for one in pointed:
        singles.append(as_stars(fit_image(one.exposure, config=CONFIG).catalog))
    alone = (time.process_time() - began) / n
    began = time.process_time()
    result = fit_exposures([one.exposure for one in pointed], config=CONFIG)
    cost = time.process_time() - began
    truth, both = truths[0], as_stars(result.catalog)
    lists = {
        "one": flux_of(truth, singles[0]),
        "mean": mean_catalog(truths, singles),
        "joint": flux_of(truth, both),
        "floor": flux_of(truth, floor(pointed, truth)),
    }
    lists = {name: without_zero_point(truth, flux) for name, flux in lists.items()}
    noise = np.hypot(truth.sky_error, np.sqrt(truth.stars.flux)) / np.sqrt(n)
    wanted = truth.inside(truth.stars) & truth.clean & (truth.stars.flux > BRIGHT * noise)
    wanted &= np.all([np.isfinite(flux) for flux in lists.values()], axis=0)
    scatter = {
        name: robust_width((flux[wanted] - truth.stars.flux[wanted]) / noise[wanted])
        for name, flux in lists.items()
    }
    bias, chance = phase_bias(truth, lists["joint"])
    limits = depth(truth, singles[0]), depth(truth, both)
    return {
        "test": "dithered",
        "size": size,
        "seed": seed,
        "exposures": n,
        "stars": len(both),
        "depth_gain_mag": 2.5 * float(np.log10(limits[0] / limits[1])),
        "depth_ideal_mag": 1.25 * float(np.log10(n)),
        "scatter": scatter,
        "scatter_stars": int(wanted.sum()),
        "joint_over_floor": scatter["joint"] / scatter["floor"],
        "mean_over_floor": scatter["mean"] / scatter["floor"],
        "phase_mmag": bias,
        "phase_chance_mmag": chance,
        "tie_rms_pix": [tie.rms for tie in result.ties[-1]],
        "cpu_seconds": cost,
        "cpu_over_single": cost / (n * alone),
        "passes": len(result.history),
        "memory_mb": result.peak_memory_mb,
    }


def two_bands(size: int, seed: int) -> dict[str, Any]:
    """Return how unbiased the fluxes of a shallow filter are for stars that only the deep one shows."""
    pointings = [
        Pointing(*DITHERS[0], time=4.0, band="deep"),
        Pointing(*DITHERS[1], time=0.5, fwhm=2.4, band="shallow", colour=0.5),
    ]
    pointed = point(field(size, seed), pointings)
    result = fit_exposures([one.exposure for one in pointed], config=CONFIG)
    truth, shallow = truth_of(pointed[0].made), truth_of(pointed[1].made)
    # stars of the second exposure only, which have no flux in the first, are not in the list that is matched
    table = result.catalog[result.catalog["flux"].value > 0]
    partner = match(truth, as_stars(table))
    snr = shallow.snr(shallow.stars.flux)
    wanted = truth.inside(truth.stars) & truth.clean & shallow.clean & (partner >= 0) & (snr > 1) & (snr < 3)
    wanted &= truth.snr(truth.stars.flux) > 10
    rows = partner[wanted]
    flux, err, deep = (
        np.asarray(table[name].value)[rows] for name in ("exp2_flux", "exp2_flux_err", "exp1_flux")
    )
    pull = (flux - shallow.stars.flux[wanted]) / err
    pull = pull[np.isfinite(pull)]
    return {
        "test": "bands",
        "size": size,
        "seed": seed,
        "stars": len(pull),
        "pull_mean": float(np.mean(np.clip(pull, -5, 5))),
        "pull_median": float(np.median(pull)),
        "pull_width": robust_width(pull),
        "mean_error": robust_width(pull) / float(np.sqrt(len(pull))),
        "light_over_true": float(np.nansum(flux) / np.sum(shallow.stars.flux[wanted])),
        "deep_light_over_true": float(np.nansum(deep) / np.sum(truth.stars.flux[wanted])),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print what a joint fit reaches, and append the JSON lines."""
    parser = argparse.ArgumentParser(prog="benchmarks.joint", description="One fit over many exposures.")
    parser.add_argument("--size", type=int, default=512, help="side of the exposures (pix)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    parser.add_argument("--exposures", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--bands", action="store_true", help="two filters instead")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines are appended to this file")
    args = parser.parse_args(argv)
    facts = provenance()
    for seed in args.seeds:
        runs = (
            [two_bands(args.size, seed)]
            if args.bands
            else (dithered(args.size, seed, n) for n in args.exposures)
        )
        for record in runs:
            append(facts | record, args.out)
            print(json.dumps(record, default=float), flush=True)


if __name__ == "__main__":
    main()
