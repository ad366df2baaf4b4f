"""One image with its noise, validated once; everything past this door trusts its arrays.

Two variances are kept apart. `Exposure.ivar` is the inverse variance of sky and detector only: detection
uses it, because noise that contains the photons of the stars hides stars. `Exposure.fit_ivar(model)` adds
the photons of the *model*; adding those of the data would pull bright stars low (P059).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.errors import InputError

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

LEAST_NOISE = 1e-6
"""A pixel with a noise of fewer electrons is one with a wrong gain."""
ABSURD_SNR = 1e12
"""A pixel of so many sigma is no measurement: single precision has digits for a millionth of it."""
ABSURD_WEIGHT = 1e12
"""Nor has a pixel so many times the typical inverse variance."""


@dataclass(frozen=True, eq=False)
class Exposure:
    """An image of a star field with its noise model.

    Parameters
    ----------
    data : ndarray (ny, nx) float32
        Pixel values in the image unit; 0 where not usable.
    ivar : ndarray (ny, nx) float32
        Inverse variance of sky and detector noise, in image unit^-2; 0 = do not use this pixel.
    dq : ndarray (ny, nx) uint32
        Data-quality value of every pixel as read; carried to the catalogue, not interpreted here.
    saturated : ndarray (ny, nx) bool
        Pixels not used because they are saturated; a star may hide there.
    gain : float
        Electrons per image unit, for the photon noise of the stars; `inf` leaves that noise out.
    wcs : astropy.wcs.WCS or None
        World coordinates of the 0-based pixel grid.
    band, unit, name : str
        Filter, image unit (FITS spelling, may be empty) and a short name for messages.
    meta : mapping
        Facts read from the headers (EXPTIME, SATURATE, checksum, ...).
    notes : tuple of str
        What was assumed about noise and mask, in the order in which it was decided.
    """

    data: Image
    ivar: Image
    dq: NDArray[np.uint32]
    saturated: Mask
    gain: float = np.inf
    wcs: Any = None
    band: str = ""
    unit: str = ""
    name: str = "image"
    meta: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        data: NDArray[Any],
        ivar: NDArray[Any],
        dq: NDArray[Any] | None = None,
        *,
        saturated: NDArray[Any] | None = None,
        gain: float = np.inf,
        **facts: Any,
    ) -> "Exposure":
        """Validate and coerce plain arrays.

        Parameters
        ----------
        data, ivar, dq, saturated : ndarray (ny, nx)
            Any real dtype and byte order. Pixels that are not finite in `data` or `ivar`, have `ivar` <= 0, or are
            out of all proportion (`ABSURD_SNR`, `ABSURD_WEIGHT`), are not used. `dq` is carried along but masks
            nothing here.
        gain : float
            Electrons per image unit.
        **facts
            `wcs`, `band`, `unit`, `name`, `meta`, `notes`.

        Raises
        ------
        InputError
            Wrong number of dimensions, shapes that differ, gain not positive or absurdly small, no usable pixel, or an
            image whose usable pixels all hold one value.
        """
        name = facts.get("name", "image")
        data = np.asarray(data)
        check_image(data, name)
        planes = {"ivar": ivar, "dq": dq, "saturated": saturated}
        for label, plane in planes.items():
            if plane is not None and np.shape(plane) != data.shape:
                raise InputError(
                    f"{name}: {label} has shape {np.shape(plane)} but the image has {data.shape}; "
                    "give arrays of the same shape"
                )
        if not gain > 0:
            raise InputError(f"{name}: gain is {gain}; it must be positive (electrons per image unit)")
        with np.errstate(invalid="ignore", over="ignore"):
            values = data.astype(np.float32)
            weights = np.asarray(ivar).astype(np.float32)
        good = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
        good &= _is_in_proportion(values, weights, good)
        if not good.any():
            raise InputError(
                f"{name}: no usable pixel (all are NaN, masked, or have err <= 0); "
                "check the ERR and DQ planes, or the dq policy in `input.dq`"
            )
        electrons = gain / float(np.sqrt(np.median(weights[good], overwrite_input=True)))
        if electrons < LEAST_NOISE:
            raise InputError(
                f"{name}: a gain of {gain:g} electrons per image unit makes the noise {electrons:.2g} electrons per "
                "pixel; correct input.gain or the header"
            )
        if np.ptp(values[good]) == 0:
            raise InputError(f"{name}: every usable pixel is {values[good][0]:g}; there is nothing to fit")
        return cls(
            data=np.where(good, values, np.float32(0)),
            ivar=np.where(good, weights, np.float32(0)),
            dq=np.zeros(data.shape, np.uint32) if dq is None else np.ascontiguousarray(dq, np.uint32),
            saturated=np.zeros(data.shape, bool) if saturated is None else np.asarray(saturated, bool),
            gain=float(gain),
            **facts,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (ny, nx)."""
        ny, nx = self.data.shape
        return ny, nx

    @cached_property
    def good(self) -> Mask:
        """Usable pixels."""
        return self.ivar > 0

    @cached_property
    def blobs(self) -> NDArray[np.int32]:
        """The saturated blob of each pixel, with a rim of one pixel, counted from 1; 0 where there is none."""
        if not self.saturated.any():
            return np.zeros(self.shape, np.int32)
        touching = np.ones((3, 3), bool)
        blobs, _ = scipy.ndimage.label(self.saturated, touching)
        rim = scipy.ndimage.grey_dilation(blobs, footprint=touching)
        return np.where(blobs > 0, blobs, rim).astype(np.int32)

    @cached_property
    def blob_boxes(self) -> tuple[tuple[slice, slice], ...]:
        """Rows and columns that hold each saturated blob with its rim, in the order of their numbers."""
        return tuple((box[0], box[1]) for box in scipy.ndimage.find_objects(self.blobs))

    @cached_property
    def noise(self) -> float:
        """Median sky-and-detector noise of a usable pixel (image unit)."""
        return float(1 / np.sqrt(np.median(self.ivar[self.good])))

    def nearest_pixel(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of the pixel on the image that is nearest to each place (x, y)."""
        ny, nx = self.shape
        row = np.clip(np.floor(y + 0.5), 0, ny - 1).astype(np.int64)
        return row, np.clip(np.floor(x + 0.5), 0, nx - 1).astype(np.int64)

    def fit_ivar(self, model: Image) -> Image:
        """Return the inverse variance with the photon noise of `model` (ny, nx; image unit) added."""
        if np.isinf(self.gain):
            return self.ivar
        photons = np.maximum(model, np.float32(0)) * np.float32(1 / self.gain)
        return self.ivar / (1 + self.ivar * photons)


def _is_in_proportion(values: Image, weights: Image, good: Mask) -> Mask:
    """Return which pixels have a value and an inverse variance that a detector may give (ny, nx)."""
    typical = float(np.median(weights[good], overwrite_input=True)) if good.any() else 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        snr = np.sqrt(weights)
        snr *= values
        return (np.abs(snr, out=snr) < ABSURD_SNR) & (weights < typical * ABSURD_WEIGHT)


def check_image(data: NDArray[Any], name: str) -> None:
    """Refuse anything that is not a real two-dimensional image with something in it (P014).

    Parameters
    ----------
    data : ndarray
        The candidate.
    name : str
        For the message.

    Raises
    ------
    InputError
        Wrong number of dimensions, no pixels, not real numbers, or nothing finite.
    """
    if data.ndim != 2:
        raise InputError(
            f"{name}: the image has {data.ndim} dimensions, shape {data.shape}; crowdfit needs 2 (ny, nx): "
            "choose one plane"
        )
    if data.size == 0 or not (np.issubdtype(data.dtype, np.number) or data.dtype == bool):
        raise InputError(
            f"{name}: the image has shape {data.shape} and type {data.dtype}; numbers are needed"
        )
    if np.iscomplexobj(data):
        raise InputError(f"{name}: the image is complex; give real numbers")
    if not np.isfinite(data).any():
        raise InputError(f"{name}: every pixel is NaN or infinite; is this the right extension?")
