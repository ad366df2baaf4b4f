"""Small FITS files for the tests of reading."""

import numpy as np
from astropy.io import fits

SHAPE = (48, 64)


def sky(shape=SHAPE, seed=0):
    """Return a plain image of noise 5 on a level of 100."""
    return np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)


def write(path, *hdus, primary=None, **kwargs):
    """Write extensions behind a primary HDU, an empty one by default."""
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(path, **kwargs)
    return path


def simple(path, data=None, **cards):
    """Write a primary image with header cards."""
    header = fits.Header(cards)
    fits.PrimaryHDU(sky() if data is None else data, header).writeto(path)
    return path


def write_planes(path, **planes):
    """Write one extension a plane, named after it."""
    return write(path, *(fits.ImageHDU(plane, name=name) for name, plane in planes.items()))
