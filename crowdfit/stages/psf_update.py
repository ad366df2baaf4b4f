"""A better PSF after every pass, from the crowded image itself.

C029-C033 without counts: stars are chosen by significance, isolation and quality of fit; every star that is
refused is counted with its reason.
"""

import logging
from dataclasses import dataclass as plain
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit import flags
from crowdfit._kernels import measure
from crowdfit.exposure import Image
from crowdfit.frame import Frame, Frames, PsfQuality
from crowdfit.psf.empirical import StarPixels, refit, resampled
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.variation import common_plane, corrections, fit_variation, mixed, on_image, variations
from crowdfit.robust import MAD
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT, by_pass
from crowdfit.stages.blobs import blob_at
from crowdfit.stages.detect import softened_ivar
from crowdfit.stages.wings import wing_change, without_anchors

log = logging.getLogger(__name__)

EARLY = 3
"""In so many passes stars are still being found, and a PSF that was right for the few before may not be for them."""


@plain(frozen=True, eq=False)
class Choice:
    """Stars chosen for the PSF: their numbers, how many were refused for which reason, and `core_error`.

    `wings` are saturated ones besides, brightest first, whose pixels tell of the wings only.
    """

    index: NDArray[np.int64]
    refused: dict[str, int]
    core_error: float
    wings: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EmpiricalPsf:
    """Profile and oversampled core refitted to the chosen stars of the frame."""

    kind: Literal["empirical"] = "empirical"
    first_pass: int = Field(default=0, ge=0, description="first pass that updates the PSF")
    last_pass: int = Field(default=1000, ge=0, description="last pass that updates the PSF")
    max_stars: int = Field(default=600, ge=1, description="most stars used")
    min_stars: int = Field(default=8, ge=1, description="with fewer stars the PSF stays as it is")
    min_snr: float = Field(default=20.0, gt=0, description="least flux / error of a PSF star")
    min_fracflux: float = Field(
        default=0.75, ge=0, le=1, description="least own share of the light; relaxed when stars are few"
    )
    min_qf: float = Field(
        default=0.97,
        ge=0,
        le=1,
        description="least share of the PSF on usable pixels; relaxed when stars are few",
    )
    max_rchi2: float = Field(
        default=4.0, gt=0, description="refuse stars fitted worse than this many times the median rchi2"
    )
    max_wings: int = Field(
        default=30, ge=0, description="most saturated stars used besides, the brightest, for their wings"
    )
    cells: int = Field(
        default=4, ge=1, description="field cells per axis; no cell gives more than its share of stars"
    )
    max_shift: float = Field(
        default=0.12,
        gt=0,
        description="refuse stars whose cleaned centroid is farther off, in FWHM",
    )
    min_contrast: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="refuse stars that lose more than the rest of their flux to a constant",
    )
    enough_stars: int = Field(default=30, ge=1, description="with fewer PSF stars the quality report fails")
    good_error: float = Field(
        default=0.05, gt=0, description="with a larger core error the quality report fails"
    )
    damping: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0,),
        min_length=1,
        description="share of the change that is taken, by pass; the last repeats",
    )
    settled: float = Field(
        default=0.004,
        ge=0,
        description="leave the PSF as it is once an update has changed its light and its FWHM by less than this share",
    )
    max_growth: float = Field(
        default=1.4,
        gt=1,
        description="keep the PSF if its FWHM would differ by more than this factor from the first guess, and from "
        "what the bright peaks of the image agree on where the guess was given",
    )
    least_error: float = Field(
        default=0.01,
        ge=0,
        description="least fractional error of the PSF added to the noise, so that no star rules alone",
    )
    neighbour_error: float = Field(
        default=1.0, ge=0, description="fractional error of the neighbours' light while the PSF is fitted"
    )
    max_radius: float = Field(default=25.0, gt=2, description="largest half width of the PSF, in FWHM")
    max_order: int = Field(
        default=2,
        ge=0,
        le=4,
        description="highest degree of the PSF's variation over the field, taken as far as other stars confirm it",
    )
    variation: Literal["polynomial", "grid"] = Field(
        default="polynomial",
        description="form of the variation: polynomials, or grids of up to max_order + 1 nodes along an axis",
    )
    given: Literal["auto", "correct", "replace"] = Field(
        default="auto",
        description="what is done with a PSF that was given: correct keeps it and its variation and adds what other "
        "stars confirm, replace only begins with it; auto corrects one that varies over the field",
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> tuple[Frames, Sources]:
        """Return the frames with the new PSF, and the sources on its scale and centre."""
        (frame,) = frames
        if not self.first_pass <= pass_no <= self.last_pass or not len(sources):
            return frames, sources
        corrects, before = self.corrects(frame), frame.psf_quality
        is_early = corrects and pass_no < EARLY
        is_settled = before is not None and before.change < self.settled and before.wings_are_still
        if is_settled and not is_early:
            return frames, sources
        choice = self.choose(frame, sources)
        chosen = np.zeros(len(sources), bool)
        chosen[choice.index] = True
        quality = self._quality(frame, choice, frame.psf)
        if len(choice.index) < self.min_stars:
            return self._keep(
                frame, sources, quality, f"only {len(choice.index)} PSF stars, {self.min_stars} needed"
            )
        stars, share = sources.take(choice.index), by_pass(self.damping, pass_no)
        if corrects:
            psf, scale, centre = self.correct(frame, stars, share)
        else:
            psf, scale, centre = self.update(frame, stars, share, wings=sources.take(choice.wings))
        if flags.has(sources.flags, "forced").all():
            # positions that are given stay; their common offset belongs to nobody but the list
            centre = (0.0, 0.0)
        why = self._too_far(frame, psf.fwhm)
        if why:
            return self._keep(frame, sources, quality, why)
        moved = sources.changed(flux=sources.flux * scale, x=sources.x + centre[0], y=sources.y + centre[1])
        moves = max(change_of(frame.psf, psf), abs(psf.fwhm / frame.psf.fwhm - 1))
        wings = wing_change(frame, psf, sources.take(choice.wings))
        quality = replace(self._quality(frame, choice, psf), change=moves, wing_change=wings)
        new = frame.with_(psf=psf, psf_quality=quality)
        return (new,), moved.flagged("psf_star", chosen)

    def _too_far(self, frame: Frame, fwhm: float) -> str:
        """Return why a PSF of that FWHM (pix) is not taken; empty when it is.

        The range reaches from a given guess to what the peaks of the image agree on, so that a wrong guess is
        mended; what lies between is the way there.
        """
        first, seen = frame.first_fwhm, frame.seen_fwhm
        low, high = sorted((first, first if seen is None else seen))
        if low / self.max_growth <= fwhm <= high * self.max_growth:
            return ""
        bound = low if fwhm < low else high
        name = "the first guess" if bound == first else "what the bright peaks agree on"
        return f"its FWHM would be {fwhm / bound:.2f} times {name}: the PSF stars are hardly stars"

    def _keep(self, frame: Frame, sources: Sources, quality: PsfQuality, why: str) -> tuple[Frames, Sources]:
        """Return everything as it is, with the reason in the frame's PSF quality."""
        log.warning("%s: the PSF is kept as it was: %s", frame.exposure.name, why)
        kept = replace(quality, n_stars=0, problems=(why,))
        return (frame.with_(psf_quality=kept),), sources.flagged("psf_star", np.zeros(len(sources), bool))

    def _quality(self, frame: Frame, choice: Choice, psf: EPSF) -> PsfQuality:
        """Return the report on a PSF made from the chosen stars."""
        n = len(choice.index)
        problems = []
        if n < self.enough_stars:
            problems.append(f"{n} PSF stars; with fewer than {self.enough_stars} noise enters the PSF")
        if choice.core_error > self.good_error:
            problems.append(
                f"star cores depart from the PSF by {choice.core_error:.1%} ({self.good_error:.0%} is good)"
            )
        if psf.fwhm < 1.2:
            problems.append(f"FWHM {psf.fwhm:.2f} px: so undersampled that fluxes depend on the pixel phase")
        return PsfQuality(
            n,
            choice.refused,
            choice.core_error,
            psf.fwhm,
            psf.ellipticity,
            psf.position_angle,
            tuple(problems),
        )

    def choose(self, frame: Frame, sources: Sources) -> Choice:
        """Return the stars for the PSF."""
        flux_err = np.maximum(frame.plain_error(sources), frame.isolated_error(np.zeros(1)))
        bright = np.flatnonzero(sources.flux > self.min_snr * flux_err)
        refused = {"faint": len(sources) - len(bright), "surplus": max(len(bright) - 4 * self.max_stars, 0)}
        bright = bright[np.argsort(-sources.flux[bright], kind="stable")][: 4 * self.max_stars]
        # the error of the present PSF is part of the noise here: without it the brightest stars fit worst
        error_seen = core_error(frame, sources.take(bright[: self.max_stars]))
        error = max(error_seen, self.least_error)
        stats = star_quality(frame, sources.take(bright), softened_ivar(frame, error))
        qf, rchi2, share = stats[:, measure.QF], stats[:, measure.RCHI2], stats[:, measure.FRACFLUX]
        limit = self.max_rchi2 * np.nanmedian(rchi2) if len(bright) else 1.0
        step = np.hypot(stats[:, measure.STEP_X_ISO], stats[:, measure.STEP_Y_ISO])
        reasons = {
            "masked": ~(qf > self._least_qf(qf)),
            "bad_fit": ~(rchi2 < limit),
            "off_centre": ~(step < self.max_shift * frame.psf.fwhm),
            "on_pedestal": ~(stats[:, measure.FLUX_LBS] > self.min_contrast * stats[:, measure.FLUX_ISO]),
        }
        good = np.ones(len(bright), bool)
        for name, bad in reasons.items():
            refused[name] = int(np.sum(good & bad))
            good &= ~bad
        least_share = self._isolation(share[good])
        crowded = ~(share > least_share)
        refused["crowded"] = int(np.sum(good & crowded))
        left = bright[good & ~crowded]
        kept = self._spread(frame, sources, left)
        # their flux hides a double core: among themselves only those that fit as the others do
        saturated = (blob_at(frame.exposure, sources.x[bright], sources.y[bright]) > 0) & (
            share > least_share
        )
        saturated &= ~reasons["off_centre"]
        if saturated.any():
            saturated &= rchi2 <= self.max_rchi2 * np.nanmedian(rchi2[saturated])
        wings = bright[saturated][: self.max_wings]
        return Choice(kept, refused | {"cell_full": len(left) - len(kept)}, error_seen, wings)

    def _least_qf(self, qf: NDArray[np.float64]) -> float:
        """Return the least usable share of a PSF: the configured one, or the best third when fewer than 50 pass it.

        Where a third of all pixels is masked no star is whole, and each still tells of what is seen of it.
        """
        if np.sum(qf > self.min_qf) >= 50 or not len(qf):
            return self.min_qf
        return float(np.clip(np.nanquantile(qf, 2 / 3), min(0.5, self.min_qf), self.min_qf))

    def _isolation(self, share: NDArray[np.float64]) -> float:
        """Return the least fracflux: the configured one, or the best third when fewer than 50 stars pass it.

        Never below one half (C031): a star that is mostly its neighbours' light says little, and the pieces
        into which a galaxy is cut say something false.
        """
        if np.sum(share > self.min_fracflux) >= 50 or not len(share):
            return self.min_fracflux
        return float(np.clip(np.quantile(share, 2 / 3), min(0.5, self.min_fracflux), self.min_fracflux))

    def _spread(self, frame: Frame, sources: Sources, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the brightest stars of every field cell, at most twice a cell's even share of them."""
        ny, nx = frame.exposure.shape
        cell = np.clip(sources.y[index] / ny * self.cells, 0, self.cells - 1).astype(int) * self.cells
        cell += np.clip(sources.x[index] / nx * self.cells, 0, self.cells - 1).astype(int)
        most = max(2 * self.max_stars // self.cells**2, 1)
        rank = np.zeros(len(index), int)
        for k in range(self.cells**2):
            here = cell == k
            rank[here] = np.arange(np.count_nonzero(here))
        return index[rank < most][: self.max_stars]

    def update(
        self, frame: Frame, stars: Sources, share: float = 1.0, *, wings: Sources | None = None
    ) -> tuple[EPSF, float, tuple[float, float]]:
        """Return the new PSF, the factor on all fluxes and the shift of all positions that keep the model.

        Saturated stars in `wings` have a say in the mean PSF, but not in how it varies.
        Only the given share of the change is taken: wings and sky answer each other, and full steps can swing
        between too much of the one and too much of the other.

        The table is normalised and recentred; a PSF that sums to t and sits at (u, v) describes the same stars
        as the normalised one with fluxes times t and positions plus (u, v).
        """
        both = stars if wings is None else stars.append(wings)
        half, shape = self._half_width(frame, both), frame.exposure.shape
        error = self._core_error(frame, stars)
        present = on_image(frame.psf, shape)
        seen = frame.fit_ivar if wings is None else without_anchors(frame, wings)
        pixels = self._pixels(frame, both, error, seen)
        mean = refit(pixels, common_plane(present), half, self._reach(frame, both, half))
        old = resampled(present, mean.oversample, half)
        pixels = self._pixels(frame, stars, error, frame.fit_ivar)
        forms = variations(self.variation, shape, self.max_order)
        new = fit_variation(pixels, old, mean, self._reach(frame, stars, half), forms)
        if share < 1:
            new = mixed(old, new, share)
        total = float(common_plane(new).cube.sum() / new.oversample**2)
        centred, centre = new.recentred()
        return centred, total, centre

    def corrects(self, frame: Frame) -> bool:
        """Return whether the PSF that was given is kept, and only corrected."""
        if frame.given_psf is None or self.given == "replace":
            return False
        return self.given == "correct" or len(frame.given_psf.cube) > 1

    def correct(
        self, frame: Frame, stars: Sources, share: float = 1.0
    ) -> tuple[EPSF, float, tuple[float, float]]:
        """Return the PSF that was given with a correction, and what `update` returns beside it: 1 and (0, 0).

        The correction is a polynomial over the field of the degree that held-out stars ask for, none if they ask for
        none; it carries no flux and moves no centre, so that both mean what they mean in the library.
        """
        assert frame.given_psf is not None
        shape = frame.exposure.shape
        library, old = on_image(frame.given_psf, shape), on_image(frame.psf, shape)
        reach = self._reach(frame, stars, library.radius)
        pixels = self._pixels(frame, stars, self._core_error(frame, stars), frame.fit_ivar)
        new = fit_variation(pixels, old, library, reach, corrections(library, shape, self.max_order))
        return mixed(old, new, share), 1.0, (0.0, 0.0)

    def _core_error(self, frame: Frame, stars: Sources) -> float:
        """Return how well the PSF of the stars is known (fraction)."""
        return max(core_error(frame, stars), self.least_error)

    def _pixels(self, frame: Frame, stars: Sources, error: float, ivar: Image) -> StarPixels:
        """Return stars with the image around them and its weights, their PSF known to `error` (fraction)."""
        return StarPixels(
            stars.x,
            stars.y,
            stars.flux,
            frame.model,
            frame.resid,
            ivar,
            error,
            self.neighbour_error,
        )

    @staticmethod
    def _reach(frame: Frame, stars: Sources, half: int) -> NDArray[np.float64]:
        """Return how far out each star tells about the PSF (pix), at most `half`."""
        return np.asarray(np.minimum(2.0 * frame.half_sizes(stars.flux), half), np.float64)

    def _half_width(self, frame: Frame, stars: Sources) -> int:
        """Return how far out the brightest star must be rendered (pix), not below that of the present PSF."""
        widest = int(np.ceil(self.max_radius * frame.psf.fwhm))
        level = frame.stamps.level * frame.noise
        reach = frame.psf.half_sizes(np.array([stars.flux.max()]), level, 1)[0]
        return int(np.clip(2 * reach, 4 * frame.psf.fwhm, widest))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FixedPsf:
    """The PSF stays as given."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> tuple[Frames, Sources]:
        """Return frames and sources as they are."""
        return frames, sources


def change_of(old: EPSF, new: EPSF) -> float:
    """Return the share of the light that lies elsewhere in the new PSF, within 6 FWHM, where it changed most."""
    size = 2 * int(np.ceil(6 * new.fwhm)) + 1
    places = new.field.places if len(new.cube) >= len(old.cube) else old.field.places
    moved = [
        np.abs(new.at(x, y).native(size) - old.at(x, y).native(size)).sum()
        for x, y in places[:: max(len(places) // 4, 1)]
    ]
    return float(np.max(moved))


def core_error(frame: Frame, stars: Sources) -> float:
    """Return the scatter of residual over model at the central pixels of stars: how wrong the PSF still is."""
    ny, nx = frame.exposure.shape
    row = np.clip(np.round(stars.y).astype(int), 0, ny - 1)
    col = np.clip(np.round(stars.x).astype(int), 0, nx - 1)
    good = frame.exposure.good[row, col] & (frame.model[row, col] > 0)
    ratio = np.abs(frame.resid[row, col][good]) / frame.model[row, col][good]
    return float(MAD * np.median(ratio)) if len(ratio) else 0.0


def star_quality(frame: Frame, stars: Sources, ivar: Image) -> NDArray[np.float64]:
    """Return the statistics of `crowdfit._kernels.measure` for some stars, (n, N_STATS), without spread_model."""
    out = np.empty((len(stars), measure.N_STATS))
    fwhm = frame.psf.fwhm
    half = min(max(int(round(2.25 * fwhm)), 2), frame.psf.support)
    measure.measure_stars(
        frame.psf.coef, frame.psf.coef, frame.psf.basis(stars.x, stars.y), stars.x, stars.y, stars.flux, half,
        np.array([max(0.5 * fwhm, 0.8), max(fwhm, 1.6)]), frame.resid, ivar,
        frame.exposure.data - frame.sky, out,
    )  # fmt: skip
    return out
