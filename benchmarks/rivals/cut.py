"""Smaller pieces of a scene, for rivals that would take hours on a whole one."""

import dataclasses
from pathlib import Path

from benchmarks.scenes import DEFAULT_FOLDER, bench_scene, drawn_file, scene_file
from crowdfit.errors import InputError
from crowdfit.simulate import Scene

LEAST_SIZE = 96
"""Smallest side (pix): the scorer leaves out a border of 20."""


def cut_scene(scene: Scene, size: int) -> Scene:
    """Return a scene of size x size pixels with as many stars per pixel, and all else the same.

    The margin around the frame, where stars lie too, stays as wide as it was. A cluster shrinks with the frame:
    the surface density is that of the same place in the whole scene.

    Parameters
    ----------
    scene : Scene
        The whole scene.
    size : int
        Rows and columns wanted (pix).

    Raises
    ------
    InputError
        Fewer than `LEAST_SIZE` pixels, or more than the scene has.
    """
    if not LEAST_SIZE <= size <= min(scene.nx, scene.ny):
        raise InputError(
            f"size: {size} is not between {LEAST_SIZE} and {min(scene.nx, scene.ny)}, the side of the scene"
        )
    border = 2 * scene.margin
    part = (size + border) ** 2 / ((scene.nx + border) * (scene.ny + border))
    clusters = tuple(
        dataclasses.replace(
            cluster,
            x=(cluster.x + 0.5) * size / scene.nx - 0.5,
            y=(cluster.y + 0.5) * size / scene.ny - 0.5,
            core_radius=cluster.core_radius * size / (scene.nx * scene.ny) ** 0.5,
            n_stars=round(cluster.n_stars * size**2 / (scene.nx * scene.ny)),
        )
        for cluster in scene.clusters
    )
    return dataclasses.replace(
        scene,
        nx=size,
        ny=size,
        n_stars=round(scene.n_stars * part),
        clusters=clusters,
        dead_columns=min(scene.dead_columns, max(1, round(scene.dead_columns * size / scene.nx))),
    )


def job_scene(name: str, seed: int, size: int | None) -> Scene:
    """Return a scene by name and seed, cut if a size is given."""
    scene = bench_scene(name, seed)
    return scene if size is None else cut_scene(scene, size)


def cut_file(name: str, seed: int, size: int | None, folder: Path = DEFAULT_FOLDER) -> Path:
    """Return the file of a scene, cut if a size is given, drawn if it is not there."""
    if size is None:
        return scene_file(name, seed, folder)
    return drawn_file(job_scene(name, seed, size), f"{name}-{size}_{seed}", folder)
