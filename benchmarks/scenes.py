"""The fields that benchmarks run on, as data, and their files."""

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from crowdfit.scene import LADDER
from crowdfit.simulate import SCENES, Scene, named_scene, simulate

SMOKE = dataclasses.replace(SCENES["dense"], ny=256, nx=256, n_stars=4000, dead_columns=1)
"""The density and everything else of `dense` on a sixteenth of its area."""

BENCH_SCENES: dict[str, Scene] = {name: scene for name, scene in SCENES.items() if name != "demo"} | {
    "smoke": SMOKE
}
GROUPS = {"ladder": tuple(f"ladder{pixels}" for pixels in LADDER)}
"""Names that stand for several scenes."""

DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "crowdfit-benchmarks"


def bench_scene(name: str, seed: int) -> Scene:
    """Return a scene by name, of the benchmarks or of `crowdfit.simulate`, with the given seed."""
    if name in BENCH_SCENES:
        return dataclasses.replace(BENCH_SCENES[name], seed=seed)
    return named_scene(name, seed=seed)


def scene_file(name: str, seed: int, folder: Path = DEFAULT_FOLDER) -> Path:
    """Return the file of a scene, drawn if it is not there; the name holds a hash of all its fields."""
    scene = bench_scene(name, seed)
    digest = hashlib.sha256(repr(scene).encode()).hexdigest()[:8]
    path = folder / f"{name}_{seed}_{digest}.fits"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        simulate(scene).write(path)
    return path
