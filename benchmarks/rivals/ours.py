"""crowdfit itself and the floor, on the same fields as the rivals and in the same records."""

from pathlib import Path
from typing import Any, ClassVar

from benchmarks.floor import fit_floor
from benchmarks.rivals.base import Code, Job, Limits
from benchmarks.run import Setup, run_field
from benchmarks.score import score, truth_of
from crowdfit import __version__
from crowdfit.simulate import simulate


class _Own(Code):
    """What needs nothing but this checkout."""

    def missing(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def version(self) -> str:
        """Return the version of crowdfit."""
        return __version__


class Crowdfit(_Own):
    """`crowdfit fit` with its default configuration, exactly as `benchmarks.run` runs it."""

    name: ClassVar[str] = "crowdfit"

    def run(self, job: Job, scratch: Path, limits: Limits) -> dict[str, Any]:
        """Fit a field with the command."""
        scratch.mkdir(parents=True, exist_ok=True)
        return run_field(job.path, Setup(threads=limits.threads, folder=scratch))


class Floor(_Own):
    """The true PSF at the true positions, one linear fit: what no code can beat."""

    name: ClassVar[str] = "floor"

    def run(self, job: Job, scratch: Path, limits: Limits) -> dict[str, Any]:
        """Fit the true stars of a scene; a file alone does not hold the true PSF."""
        if job.scene is None:
            return {
                "status": 2,
                "message": "the floor needs a scene by name: a file does not hold the true PSF",
            }
        made = simulate(job.scene)
        truth = truth_of(made)
        return {"status": 0, "score": score(truth, fit_floor(made, truth)).as_dict()}
