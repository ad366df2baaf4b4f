"""The fields that benchmarks run on, as data, and their files."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from astropy.io import fits

from crowdfit.scene import LADDER
from crowdfit.simulate import SCENES, Scene, named_scene, simulate

SMOKE = dataclasses.replace(SCENES["dense"], ny=256, nx=256, n_stars=4000, dead_columns=1)
"""The density and everything else of `dense` on a sixteenth of its area."""

BENCH_SCENES: dict[str, Scene] = {name: scene for name, scene in SCENES.items() if name != "demo"} | {
    "smoke": SMOKE,
    "huge": dataclasses.replace(SCENES["dense"], ny=4096, nx=4096, n_stars=1_000_000),
}


class RealField(NamedTuple):
    """A real image: its file below `REAL_FOLDER`, and the configuration that belongs to it."""

    path: str
    config: str | None = None


REAL_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real images lie beside the checkout, where they are there at all; they have no truth."""
_K2 = "k2_lagoon/hlsp_k2superstamp_k2_photometer_c9-lagoon-bjd{}_kepler_v1_image.fits"
REAL_FIELDS = {
    "spitzer": RealField("spitzer_glimpse/spitzer_example_image.fits", "irac"),
    "wfpc2": RealField("hst_wfpc2_ngc1261/ubai2502m_c0m_aligned_F555W.fits", "wfpc2"),
    "nircam": RealField("jwst_nircam_ngc346/image.fits", "nircam_lw"),
    "m92_v": RealField("kpno_m92/m92_V1_cal.fits"),
    "m92_b": RealField("kpno_m92/m92_B1_cal.fits"),
    "k2_first": RealField(_K2.format("2457501.0963"), "k2"),
    "k2_second": RealField(_K2.format("2457501.1167"), "k2"),
}
GROUPS = {
    "ladder": tuple(f"ladder{pixels}" for pixels in LADDER),
    "scale": ("dense", "big", "huge"),
    "real": tuple(REAL_FIELDS),
}
"""Names that stand for several fields."""

DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "crowdfit-benchmarks"


class Job(NamedTuple):
    """A field to be fitted: its name and seed, its file, and its own configuration if it has one."""

    field: str
    seed: int
    path: Path
    config: str | None = None


def expand(names: Iterable[str]) -> list[str]:
    """Return the names of fields with those that stand for several written out."""
    return [member for name in names for member in GROUPS.get(name, (name,))]


def jobs(names: Iterable[str], seeds: Iterable[int], folder: Path = DEFAULT_FOLDER) -> list[Job]:
    """Return everything to fit: scenes by name and seed, FITS files, and real fields.

    Parameters
    ----------
    names : iterable of str
        Scenes, groups of `GROUPS`, real fields of `REAL_FIELDS`, or paths that end in .fits.
    seeds : iterable of int
        Seeds of the scenes; files and real fields have none, and get 0.
    folder : Path
        Where scenes are drawn to.

    Raises
    ------
    ConfigError
        No such scene.
    """
    seeds = tuple(seeds)
    found = []
    for name in expand(names):
        if name.endswith(".fits"):
            found.append(Job(Path(name).stem, 0, Path(name).resolve()))
        elif name in REAL_FIELDS:
            found.append(Job(name, 0, REAL_FOLDER / REAL_FIELDS[name].path, REAL_FIELDS[name].config))
        else:
            found += [Job(name, seed, scene_file(name, seed, folder)) for seed in seeds]
    return found


def has_truth(path: Path) -> bool:
    """Return whether a FITS file says which stars are in it."""
    with fits.open(path) as hdus:
        return "TRUTH" in hdus


def bench_scene(name: str, seed: int) -> Scene:
    """Return a scene by name, of the benchmarks or of `crowdfit.simulate`, with the given seed."""
    if name in BENCH_SCENES:
        return dataclasses.replace(BENCH_SCENES[name], seed=seed)
    return named_scene(name, seed=seed)


def scene_file(name: str, seed: int, folder: Path = DEFAULT_FOLDER) -> Path:
    """Return the file of a scene, drawn if it is not there; the name holds a hash of all its fields."""
    return drawn_file(bench_scene(name, seed), f"{name}_{seed}", folder)


def drawn_file(scene: Scene, stem: str, folder: Path) -> Path:
    """Return the file of a scene, drawn if it is not there: `stem` and a hash of all its fields."""
    digest = hashlib.sha256(repr(scene).encode()).hexdigest()[:8]
    path = folder / f"{stem}_{digest}.fits"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        simulate(scene).write(path)
    return path
