"""What the rivals have in common: the field as their users have it, settings, measured runs, catalogues."""

import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import sep
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.optimize import least_squares

from benchmarks.run import measure
from benchmarks.score import Stars, as_stars, read_truth, score
from crowdfit.errors import InputError
from crowdfit.simulate import DQ_BAD, DQ_SATURATED, Scene

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

DEFAULT_FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crowdfit-bench"
"""Where the environments of the Python rivals are made."""
TIMED_OUT = 124
"""Exit status of `timeout` when the time was over."""
FWHM_STARS = 60
"""Number of bright stars whose median width is the measured FWHM."""
SCRIPTS = Path(__file__).parent / "scripts"


class Setting(NamedTuple):
    """A value that a rival is given, and why."""

    value: Any
    why: str


@dataclass(frozen=True)
class Job:
    """One field to fit: its name and seed, its file, its rows and columns, and its scene if that is known."""

    field: str
    seed: int
    path: Path
    size: tuple[int, int]
    scene: Scene | None = None


@dataclass(frozen=True)
class Limits:
    """What a run may use: threads, and seconds before it is stopped (0: no limit)."""

    threads: int = 2
    seconds: int = 3600


@dataclass(frozen=True, eq=False)
class Field:
    """An image with what its owner knows of it; all (ny, nx), in image units, gain in electrons per unit.

    `err` is the standard deviation with photon noise, `bad` marks worthless pixels and `saturated` clipped
    ones; what worthless pixels hold is NaN.
    """

    path: Path
    data: F32
    err: F32
    bad: Bool
    saturated: Bool
    gain: float
    read_noise: float
    saturation: float

    @property
    def masked(self) -> Bool:
        """Pixels that are worthless or clipped."""
        return self.bad | self.saturated

    @cached_property
    def filled(self) -> F32:
        """The image with worthless pixels replaced by the nearest good one."""
        nearest = distance_transform_edt(self.bad, return_distances=False, return_indices=True)
        return np.asarray(self.data[tuple(nearest)])

    @cached_property
    def _background(self) -> Any:
        return sep.Background(np.ascontiguousarray(self.filled), mask=self.masked, bw=64, bh=64)

    @property
    def sky(self) -> float:
        """Typical sky level."""
        return float(self._background.globalback)

    @property
    def noise(self) -> float:
        """Standard deviation of a pixel of sky, from its photons and the read noise."""
        return float(np.sqrt(max(self.sky, 0) / self.gain + (self.read_noise / self.gain) ** 2))

    @cached_property
    def fwhm(self) -> float:
        """FWHM of bright stars as an interactive tool would show it: the median of Moffat fits (pix)."""
        image = self.filled - self._background.back()
        stars = sep.extract(np.ascontiguousarray(image), 30 * self.noise, mask=self.masked)
        stars = stars[(stars["flag"] == 0) & (stars["npix"] > 4)]
        widths = [_width(image, star) for star in stars[np.argsort(-stars["flux"])][:FWHM_STARS]]
        widths = [width for width in widths if np.isfinite(width)]
        if not widths:
            raise InputError(f"{self.path}: no bright star to measure the FWHM on; is the field empty?")
        return float(np.median(widths))


def _width(image: F32, star: Any) -> float:
    """Return the FWHM of a Moffat and a constant, fitted to the core; NaN if that fails."""
    half = int(np.ceil(3 * np.sqrt(star["a"] * star["b"])))
    col, row = round(star["x"]), round(star["y"])
    if half < 2 or not (half <= col < image.shape[1] - half and half <= row < image.shape[0] - half):
        return float("nan")
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    box = image[row - half : row + half + 1, col - half : col + half + 1].astype(float)
    peak = float(box.max())

    def misfit(par: F64) -> F64:
        height, dx, dy, radius, level, beta = par
        shape = (1 + ((xx - dx) ** 2 + (yy - dy) ** 2) / radius**2) ** -beta
        return np.asarray(height * shape + level - box / peak).ravel()

    low, high = [0, -2, -2, 0.2, -1, 1.2], [3, 2, 2, 4 * half, 1, 20]
    fit = least_squares(misfit, [1, 0, 0, half / 2, 0, 3], bounds=(low, high), loss="soft_l1", f_scale=0.05)
    fwhm = 2 * fit.x[3] * np.sqrt(2 ** (1 / fit.x[5]) - 1)
    return float(fwhm) if fit.success and 0.5 < fwhm < 4 * half else float("nan")


def read_field(path: Path) -> Field:
    """Return a simulated field as an observer would have it, without its truth.

    Raises
    ------
    InputError
        GAIN or RDNOISE is not in the primary header.
    """
    with fits.open(path) as hdus:
        header = hdus[0].header
        lacking = [key for key in ("GAIN", "RDNOISE") if key not in header]
        if lacking:
            raise InputError(
                f"{path}: {' and '.join(lacking)} not in the primary header; `crowdfit simulate` writes them"
            )
        data, dq = hdus["SCI"].data.astype(np.float32), hdus["DQ"].data
        bad = ((dq & DQ_BAD) > 0) | ~np.isfinite(data)
        data[bad] = np.nan
        return Field(
            path=path,
            data=data,
            err=hdus["ERR"].data.astype(np.float32),
            bad=bad,
            saturated=((dq & DQ_SATURATED) > 0) & ~bad,
            gain=float(header["GAIN"]),
            read_noise=float(header["RDNOISE"]),
            saturation=float(header.get("SATURATE", np.inf)),
        )


class Code(ABC):
    """Something that can be run on a field and scored."""

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, Setting]] = {}

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        self.folder = folder

    @abstractmethod
    def missing(self) -> tuple[str, ...]:
        """Return what has to be installed before the code can run; empty when it can."""

    @abstractmethod
    def version(self) -> str:
        """Return the version; call it only when nothing is missing."""

    @abstractmethod
    def run(self, job: Job, scratch: Path, limits: Limits) -> dict[str, Any]:
        """Fit a field and score the catalogue.

        Returns
        -------
        dict
            `status` (0 when all went well) and `score`, or `message` when something failed; `wall_s`, `cpu_s`
            and `peak_mb` of a code that runs in processes of its own.
        """

    def available(self) -> bool:
        """Return whether the code can run here."""
        return not self.missing()


class Rival(Code):
    """A code to compare with. Subclasses say how it is called and what its columns mean."""

    def __getitem__(self, setting: str) -> Any:
        """Return the value of a setting."""
        return self.settings[setting].value

    @abstractmethod
    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write what the rival reads into the folder `work`; return the commands to run, in order."""

    @abstractmethod
    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return the stars that the commands left in the folder `work`."""

    def run(self, job: Job, scratch: Path, limits: Limits) -> dict[str, Any]:
        """Fit a field and score the catalogue; only the rival's own commands are timed."""
        scratch.mkdir(parents=True, exist_ok=True)
        field = read_field(job.path)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}_", dir=scratch) as folder:
            work = Path(folder)
            cost, log = _measure_all(self.commands(field, work, limits), work, limits)
            if cost["status"] != 0:
                return cost | {"message": _explain(cost["status"], log, limits)}
            try:
                found = self.catalogue(field, work)
            except (OSError, ValueError, KeyError) as error:
                # a rival may fail and still end with status 0; then its catalogue is what is missing
                return cost | {"status": 1, "message": f"no catalogue: {error}; {_tail(log)}"}
        return cost | {"score": score(read_truth(job.path), found).as_dict()}


def _measure_all(
    commands: Sequence[Sequence[str]], work: Path, limits: Limits
) -> tuple[dict[str, Any], Path]:
    """Run commands until one fails; return their cost together, and the log of the last."""
    total = {"status": 0, "wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}
    log = work / "log.txt"
    for number, command in enumerate(commands):
        log = work / f"log{number}.txt"
        cost = measure([*_wrapped(limits), *command], log)
        total["status"] = cost["status"]
        total["wall_s"] = round(total["wall_s"] + cost["wall_s"], 2)
        total["cpu_s"] = round(total["cpu_s"] + cost["cpu_s"], 2)
        total["peak_mb"] = max(total["peak_mb"], cost["peak_mb"])
        if cost["status"] != 0:
            break
    return total, log


def _wrapped(limits: Limits) -> list[str]:
    """Return what goes before a command: its number of threads, and a clock if time is limited."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    # a path to our packages is no part of their environments
    words = ["env", "-u", "PYTHONPATH", *(f"{name}={limits.threads}" for name in names)]
    if not limits.seconds:
        return words
    if shutil.which("timeout") is None:
        raise InputError("--limit: needs the program `timeout` of GNU coreutils; 0 sets no limit")
    return [*words, "timeout", str(limits.seconds)]


def _explain(status: int, log: Path, limits: Limits) -> str:
    if status == TIMED_OUT:
        return f"stopped after {limits.seconds} s"
    return _tail(log)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-500:]


def stars(x: Any, y: Any, flux: Any, err: Any) -> Stars:
    """Return a catalogue (0-based pixels) without entries of undefined position or without positive flux."""
    columns = {"x": x, "y": y, "flux": flux, "flux_err": err}
    return as_stars(Table({name: np.ma.asarray(values, float) for name, values in columns.items()}))


def output_of(command: Sequence[str]) -> str:
    """Return what a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def program(*names: str) -> str | None:
    """Return the first of some names of a program that is installed."""
    return next((name for name in names if shutil.which(name)), None)


def this_python() -> str:
    """Return the Python that runs this."""
    return sys.executable
