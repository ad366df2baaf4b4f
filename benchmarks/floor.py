"""The floor: what a perfect finder with the perfect PSF would reach on a scene.

    python -m benchmarks.floor dense sparse undersampled --seeds 1 2 3

True PSF, true positions of all stars above S/N 4, true sky with the mean light of the fainter stars, and one
linear fit of all fluxes. What is left is the noise, blending, and the stars too faint to be fitted: no
catalogue can be expected to do better.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import RESULTS, append, provenance, table
from benchmarks.scenes import bench_scene, expand
from benchmarks.score import Stars, Truth, print_bins, score, truth_of
from crowdfit.frame import Frame, StampSizes
from crowdfit.render import render
from crowdfit.simulate import Simulated, simulate
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve

LEAST_SNR = 4.0
"""Fainter stars are not fitted; their mean light belongs to the sky."""


def fit_floor(made: Simulated, truth: Truth) -> Stars:
    """Return true positions with fitted fluxes and their errors of all stars above `LEAST_SNR`."""
    seen = truth.snr(truth.stars.flux) >= LEAST_SNR
    x, y, flux = truth.stars.x, truth.stars.y, truth.stars.flux
    sources = Sources.at(x[seen], y[seen], flux[seen])
    # true fluxes as start values only set stamp sizes and photon noise: the linear fit forgets them
    frame = Frame.start(made.exposure, made.psf, StampSizes()).rendered(sources)
    whole = render(made.psf, sources.x, sources.y, sources.flux, made.data.shape)
    fainter = np.float32((made.model - whole).mean())
    # wings beyond the stamps are known too; left out, they would lift every faint star
    frame = frame.with_(sky=made.sky + fainter + (whole - frame.model))
    solve = PcgSolve(final_tolerance=1e-3, max_iter=2000)
    found = solve((frame,), sources, shifts=False).sources
    found = found.take(found.flux > 0)
    return Stars(found.x, found.y, found.flux, found.flux_err)


def floor(name: str, seed: int) -> dict[str, Any]:
    """Return the record of the floor of a scene, with the keys of `benchmarks.run` but without costs."""
    made = simulate(bench_scene(name, seed))
    truth = truth_of(made)
    figures = score(truth, fit_floor(made, truth))
    return {
        "field": name,
        "code": "floor",
        "seed": seed,
        "size": list(made.data.shape),
        "status": 0,
        "score": figures.as_dict(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the floor of some scenes and append the JSON lines."""
    parser = argparse.ArgumentParser(prog="benchmarks.floor", description="What no fit can beat.")
    parser.add_argument("fields", nargs="+", metavar="SCENE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines are appended to this file")
    args = parser.parse_args(argv)
    facts = provenance()
    records = []
    for name in expand(args.fields):
        for seed in args.seeds:
            records.append(facts | floor(name, seed))
            append(records[-1], args.out)
    print(table(records))
    for record in records:
        print(f"\n{record['field']}, seed {record['seed']}")
        print_bins(record["score"]["bins"], "snr")
        print_bins(record["score"]["density_bins"], "density")


if __name__ == "__main__":
    main()
