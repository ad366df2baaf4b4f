"""Corrupted images and strange configurations: what one case of `tests.fuzz` gives to the command line.

Every case follows from a seed and its number alone. Most are one small star field with one to three things wrong.
"""

import gzip
import io
import json
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits

from crowdfit.config import dump, load_config

Rng = np.random.Generator

QUICK = ["--set", "stop.min_passes=1", "--set", "stop.max_passes=2"]
"""They come last and win: a case may ask for a million passes, and would get them."""


class Case(NamedTuple):
    """Arguments of the command line, and what was done to deserve them."""

    arguments: list[str]
    story: list[str]


def make(seed: int, number: int, folder: Path) -> Case:
    """Write the files of a case into a folder and return its command."""
    maker, rng = chosen_maker(seed, number)
    story = [maker.__name__]
    return Case(maker(rng, folder, story), story)


def chosen_maker(seed: int, number: int) -> tuple["Maker", Rng]:
    """Return what makes a case, and the generator with which it goes on."""
    rng = np.random.default_rng([seed, number])
    return MAKERS[rng.choice(len(MAKERS), p=np.array(SHARES) / sum(SHARES))], rng


def numbers_of(maker: "Maker", seed: int, n: int) -> list[int]:
    """Return the first `n` numbers of a seed whose cases are of one kind."""
    return list(islice((k for k in count() if chosen_maker(seed, k)[0] is maker), n))


# --- images -------------------------------------------------------------------------------------------------------


def field(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Return a star field of FWHM 2.5 on a sky of 100 with noise 5."""
    ny, nx = shape
    data = rng.normal(100, 5, shape)
    yy, xx = np.mgrid[:ny, :nx]
    for _ in range(int(ny * nx / 80)):
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        data += 10 ** rng.uniform(1.5, 3.5) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 2.2)
    return data.astype(np.float32)


def a_shape(rng: Rng, story: list[str]) -> tuple[int, int]:
    if rng.random() < 0.85:
        return int(rng.integers(24, 65)), int(rng.integers(24, 65))
    sizes = [1, 2, 3, 4, 5, 7, 11, 24, 64]
    shape = int(rng.choice(sizes)), int(rng.choice(sizes))
    story.append(f"shape {shape}")
    return shape


ODD_VALUES = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-38, 1e-45, 1e10, 1e19, 1e30, 1e38, -1e30, 65535.0)


def _block(rng: Rng, data: np.ndarray, value: float) -> None:
    ny, nx = data.shape
    y, x = np.sort(rng.integers(0, ny + 1, 2)), np.sort(rng.integers(0, nx + 1, 2))
    data[y[0] : y[1], x[0] : x[1]] = value


def _pixels(rng: Rng, data: np.ndarray, value: float) -> None:
    data[rng.random(data.shape) < rng.choice([0.001, 0.05, 0.5, 0.99])] = value


def _line(rng: Rng, data: np.ndarray, value: float) -> None:
    if rng.random() < 0.5:
        data[rng.integers(0, data.shape[0])] = value
    else:
        data[:, rng.integers(0, data.shape[1])] = value


def _all(rng: Rng, data: np.ndarray, value: float) -> None:
    data[:] = value


def _times(rng: Rng, data: np.ndarray, value: float) -> None:
    with np.errstate(all="ignore"):
        data *= value


def _one(rng: Rng, data: np.ndarray, value: float) -> None:
    data[rng.integers(0, data.shape[0]), rng.integers(0, data.shape[1])] = value


DAMAGES = (_block, _pixels, _line, _all, _times, _one)


def spoil(rng: Rng, data: np.ndarray, story: list[str], what: str) -> np.ndarray:
    """Return a plane with odd values in some of its pixels."""
    damage, value = DAMAGES[rng.integers(len(DAMAGES))], float(rng.choice(ODD_VALUES))
    story.append(f"{what}: {damage.__name__[1:]} {value:g}")
    data = data.astype(np.float32)
    damage(rng, data, value)
    return data


TYPES = ("u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">f4", "<f8", "i1")


def retyped(rng: Rng, data: np.ndarray, story: list[str], what: str) -> np.ndarray:
    """Return a plane in another type, values wrapped as they come."""
    kind = str(rng.choice(TYPES))
    story.append(f"{what}: type {kind}")
    with np.errstate(all="ignore"):
        if np.dtype(kind).kind == "f":
            return data.astype(kind)
        return np.nan_to_num(data, nan=0, posinf=1e4, neginf=-1e4).astype(np.int64).astype(kind)


def other_plane(rng: Rng, data: np.ndarray, story: list[str], name: str) -> np.ndarray:
    """Return an error, weight or quality plane that is more or less wrong."""
    shape = data.shape
    if rng.random() < 0.12:
        shape = [(shape[1], shape[0] + 1), (3, *shape), (shape[1],), (1, *shape)][rng.integers(4)]
        story.append(f"{name}: shape {shape}")
    if name == "DQ":
        plane = np.zeros(shape, np.float64)
        plane[rng.random(shape) < rng.choice([0, 0.05, 0.5, 1.0])] = rng.choice(
            [1, 2, 4, 2**15, 2**31, -1, 0.5]
        )
        return retyped(rng, plane, story, name)
    plane = np.full(shape, 5.0 if name == "ERR" else 0.04, np.float32)
    if rng.random() < 0.7 and plane.ndim == 2:
        plane = spoil(rng, plane, story, name)
    return retyped(rng, plane, story, name) if rng.random() < 0.2 else plane


NUMBERS = (0, -1, 1e-300, 1e300, "", "nonsense", "1.5", True, 1, 2.5, 65535, -(2**40), "inf", "NaN", "e-/DN")
CARDS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("GAIN", "CCDGAIN", "EGAIN", "RDNOISE", "READNOIS", "SATURATE", "SATLEVEL", "EXPTIME", "PHOTMJSR"),
        NUMBERS,
    ),
    **dict.fromkeys(("NCOMBINE", "NGROUPS", "NINTS", "EFFEXPTM"), NUMBERS),
    "BUNIT": ("MJy/sr", "ELECTRONS/S", "DN", "counts / s", "furlong", "m^^2", "10**-17 erg", "'", 5, "e-" * 20),
    **dict.fromkeys(("FILTER", "INSTRUME", "TELESCOP", "DETECTOR"), ("", "F200W", 5, True, "../../x", "a'b", "NIRCAM")),
    **dict.fromkeys(("CTYPE1", "CTYPE2"), ("RA---TAN", "DEC--TAN", "RA---TAN-SIP", "GLON-CAR", "FREQ", "XXXX", "", 7)),
    **dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CDELT2"), (0, 1e-5, -1e-5, 1e300, "x", 1)),
    **dict.fromkeys(("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"), (0, 91.0, -500.0, 1e300, "x", 32.0)),
    **dict.fromkeys(("CUNIT1", "CUNIT2"), ("deg", "parsec", "", 5)),
    **dict.fromkeys(("RADESYS", "EQUINOX", "LONPOLE", "LATPOLE", "WCSAXES", "MJD-OBS", "DATE-OBS", "WCSNAME"), NUMBERS),
    **dict.fromkeys(("A_ORDER", "B_ORDER", "A_2_0", "PV1_1", "PV2_1", "PS1_0", "NAXIS3", "CNPIX1"), (0, 1, 2, 1e5, "x")),
    **dict.fromkeys(("BSCALE", "BZERO", "BLANK"), (0, 1, 1e30, 2.0, 32768, -1)),
    **dict.fromkeys(("EXTNAME", "EXTVER", "HIERARCH ESO THING", "COMMENT"), ("SCI", "ERR", "", 1, "long " * 30)),
}  # fmt: skip
WCS_CARDS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -5.0, "CRPIX1": 20.0, "CRPIX2": 20.0,
    "CD1_1": -1e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-5,
}  # fmt: skip


def header(rng: Rng, story: list[str]) -> fits.Header:
    """Return a header with odd cards, half of the time over a good WCS."""
    cards = fits.Header(WCS_CARDS if rng.random() < 0.5 else {})
    for key in rng.choice(list(CARDS), rng.integers(0, 4), replace=False):
        values = CARDS[str(key)]
        value = values[rng.integers(len(values))]
        story.append(f"{key}={value!r}")
        cards[str(key)] = value
    return cards


def hdus_of(rng: Rng, story: list[str]) -> fits.HDUList:
    """Return a star field with something wrong in its pixels, planes and headers."""
    data = field(rng, a_shape(rng, story))
    for _ in range(rng.integers(0, 3)):
        data = spoil(rng, data, story, "SCI")
    image = retyped(rng, data, story, "SCI") if rng.random() < 0.3 else data
    if rng.random() < 0.05:
        image = [image[np.newaxis], image[0], np.stack([image] * 3), image[:, :, np.newaxis]][rng.integers(4)]
        story.append(f"SCI: shape {image.shape}")
    cards = header(rng, story)
    if rng.random() < 0.3:
        hdus = [fits.PrimaryHDU(image, cards)]
    else:
        name = str(rng.choice(["SCI", "SCI", "SCI", "sci", "DATA", ""]))
        kind = rng.random()
        if kind < 0.15 and image.ndim == 2 and image.dtype.str[1:] in ("u1", "i2", "i4", "f4", "f8"):
            methods = ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"]
            method = str(rng.choice(methods[: 4 if min(image.shape) > 4 else 3]))
            story.append(f"compressed {method}")
            hdus = [fits.PrimaryHDU(), fits.CompImageHDU(image, cards, name=name, compression_type=method)]
        else:
            hdus = [fits.PrimaryHDU(header=header(rng, story)), fits.ImageHDU(image, cards, name=name)]
    for extension in ("ERR", "DQ", "WHT"):
        if rng.random() < 0.25:
            plane = other_plane(rng, data, story, extension)
            hdus.append(fits.ImageHDU(plane, name=extension))
    if rng.random() < 0.08:
        story.append("a table too")
        name = str(rng.choice(["SCI", "ERR", "DQ", "T"]))
        columns = [fits.Column("a", "E", array=np.arange(3.0)), fits.Column("s", "5A", array=["x", "y", "z"])]
        hdus.insert(int(rng.integers(1, len(hdus) + 1)), fits.BinTableHDU.from_columns(columns, name=name))
    return fits.HDUList(hdus)


# --- bytes --------------------------------------------------------------------------------------------------------


def _cut(rng: Rng, raw: bytearray) -> bytearray:
    return raw[: rng.integers(0, len(raw) + 1)]


def _flip(rng: Rng, raw: bytearray) -> bytearray:
    for at in rng.integers(0, len(raw), rng.integers(1, 30)):
        raw[at] ^= 1 << int(rng.integers(8))
    return raw


def _flip_header(rng: Rng, raw: bytearray) -> bytearray:
    for at in rng.integers(0, min(len(raw), 2880), rng.integers(1, 6)):
        raw[at] = int(rng.integers(256))
    return raw


def _extension_header(rng: Rng, raw: bytearray) -> bytearray:
    start = max(raw.find(b"XTENSION"), 0)
    for at in rng.integers(start, min(len(raw), start + 1600), rng.integers(1, 6)):
        raw[at] = int(rng.integers(32, 127))
    return raw


def _structure(rng: Rng, raw: bytearray) -> bytearray:
    """Put another number into a card that says how the file is built."""
    key = rng.choice([b"BITPIX  ", b"NAXIS   ", b"NAXIS1  ", b"NAXIS2  ", b"PCOUNT  ", b"GCOUNT  ", b"ZNAXIS1 ", b"ZTILE1  ",
                      b"TFIELDS ", b"ZBITPIX ", b"ZNAXIS  ", b"TFORM1  ", b"EXTEND  ", b"XTENSION", b"BSCALE  "])  # fmt: skip
    value = rng.choice(
        ["0", "-1", "1", "3", "7", "-32", "64", "999", "100000", "99999999999", "1E400", "T", "'x'"]
    )
    at = raw.find(bytes(key) + b"= ", raw.find(b"XTENSION") if rng.random() < 0.7 else 0)
    if at >= 0:
        raw[at + 10 : at + 30] = str(value).rjust(20).encode()
    return raw


def _no_end(rng: Rng, raw: bytearray) -> bytearray:
    return raw.replace(b"END     ", b"EMD     ", 1 if rng.random() < 0.5 else -1)


def _tail(rng: Rng, raw: bytearray) -> bytearray:
    return raw + rng.bytes(int(rng.integers(1, 6000)))


def _head(rng: Rng, raw: bytearray) -> bytearray:
    return bytearray(rng.bytes(int(rng.integers(1, 100)))) + raw


def _zeros(rng: Rng, raw: bytearray) -> bytearray:
    start, end = np.sort(rng.integers(0, len(raw), 2))
    raw[start:end] = bytes(int(end - start))
    return raw


def _packed(rng: Rng, raw: bytearray) -> bytearray:
    packed = bytearray(gzip.compress(bytes(raw), mtime=0))
    return [_cut, _flip, _tail][rng.integers(3)](rng, packed)


BREAKS: tuple[Callable[[Rng, bytearray], bytearray], ...] = (
    _cut, _flip, _flip_header, _extension_header, _structure, _structure, _no_end, _tail, _head, _zeros, _packed
)  # fmt: skip


def other_bytes(rng: Rng) -> bytes:
    """Return a file that is no FITS file at all."""
    return [
        b"", b"\0" * 5760, b"SIMPLE  =", b"SIMPLE  =                    T" + b" " * 2850, b"\x89PNG\r\n\x1a\n" + rng.bytes(500),
        b"\x89HDF\r\n\x1a\n" + rng.bytes(2000), b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}", b"x,y\n1,2\n", rng.bytes(5000),
        b"\x1f\x8b" + rng.bytes(200), b"BZh9" + rng.bytes(200), b"\xfd7zXZ\0" + rng.bytes(200), b"PK\x03\x04" + rng.bytes(200),
    ][rng.integers(13)]  # fmt: skip


def written(rng: Rng, path: Path, hdus: fits.HDUList, story: list[str], broken: float) -> Path:
    """Write a file, with the probability `broken` with damaged bytes."""
    content = io.BytesIO()
    hdus.writeto(content, output_verify="ignore", checksum=bool(rng.random() < 0.2))
    raw = bytearray(content.getvalue())
    if rng.random() < broken:
        for _ in range(rng.integers(1, 3)):
            change = BREAKS[rng.integers(len(BREAKS))]
            story.append(f"bytes: {change.__name__[1:]}")
            raw = change(rng, raw) if raw else raw
    path.write_bytes(raw)
    return path


# --- settings -----------------------------------------------------------------------------------------------------


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix]
    return [
        leaf
        for key, item in tree.items()
        for leaf in _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    ]


VALUES = (
    0, 1, -1, 2, 3, 5, 0.5, 1.5, 20, 1e-9, 1e9, 1e300, 1e-300, 10**30, 2**31, -(2**63), 1000, ".nan", ".inf", "-.inf", "null",
    "true", "yes", "text", "''", "[]", "{}", "[1, 2]", "[.nan]", "[[]]", "[a]", "{a: 1}", "{kind: none}", "none", "[0.1, 50]",
    "2020-01-01", "0x1F", "1_000", "'1'", "*a", "&a 1", "!!python/object:os.system x", "[" * 50, "[" * 3000, "é", "\t", "# c",
    "1e-4", "|", ">-", "x: y: z", "@", "%", "a" * 5000, "[0, 5, 0, 5]", "[[0, 5, 0, 5]]", "[[5, 0, 0, 5]]", "[[0, 1e9, 0, 1]]",
)  # fmt: skip
KINDS = (
    "sky.kind=blocks", "sky.kind=nebula", "sky.kind=fixed", "detect.kind=crowdsource", "detect.kind=sep", "detect.kind=none",
    "solve.kind=lsqr", "centroid.kind=weighted", "centroid.kind=peak", "centroid.kind=none", "psf_update.kind=none",
    "prune.kind=none", "confusion.kind=none", "psf.kind=file", "detect.local_sky=true", "detect.local_noise=true",
)  # fmt: skip
NAMES = ("nircam_sw", "undersampled", "jwst", "irac", "decam", "k2", "wfpc2", "miri", "forced")


def _keys() -> list[str]:
    import yaml  # noqa: PLC0415

    return _leaves(yaml.safe_load(dump(load_config())))


KEYS = [key for key in _keys() if key not in ("stop.min_passes", "stop.max_passes")]


def setting(rng: Rng) -> str:
    """Return one `key=value`, mostly of a key that exists."""
    if rng.random() < 0.15:
        return str(rng.choice(KINDS))
    key = str(rng.choice(KEYS))
    if rng.random() < 0.1:
        key = [key + "x", key.split(".", maxsplit=1)[0], key + ".a", "." + key, "", "a.b.c", key.upper()][
            rng.integers(7)
        ]
    value = VALUES[rng.integers(len(VALUES))]
    return f"{key}={value}" if rng.random() < 0.97 else f"{key}{value}"


def config_file(rng: Rng, folder: Path) -> str:
    """Write a configuration file and return its path."""
    path = folder / "c.yaml"
    kind = rng.random()
    if kind < 0.15:
        path.write_bytes(
            [b"", b"\xff\xfe", rng.bytes(200), b"- a\n- b\n", b"a", b"\0", b"a: b: c", b"%YAML 9"][
                rng.integers(8)
            ]
        )
        return str(path)
    if kind < 0.3:
        (folder / "d.yaml").write_text("base: c.yaml\n")
        base = str(
            rng.choice(["c.yaml", "d.yaml", "none.yaml", "nircam_sw", "[c.yaml, d.yaml]", "5", ".", "null"])
        )
        path.write_text(f"base: {base}\nsky:\n  kind: mesh\n")
        return str(path)
    text = dump(load_config())
    lines = text.splitlines()
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(lines)))
        how = rng.integers(5)
        if how == 0:
            lines[at] = lines[at].partition(":")[0] + f": {VALUES[rng.integers(len(VALUES))]}"
        elif how == 1:
            lines.insert(at, lines[rng.integers(len(lines))])
        elif how == 2:
            lines[at] = " " * int(rng.integers(5)) + lines[at]
        elif how == 3:
            del lines[at]
        else:
            lines.insert(at, f"filters: {{F200W: {{{str(rng.choice(KEYS)).partition('.')[0]}: 1}}}}")
    path.write_text("\n".join(lines))
    return str(path)


# --- commands -----------------------------------------------------------------------------------------------------


def _fit(folder: Path, *options: str) -> list[str]:
    return ["fit", str(folder / "f.fits"), "-o", str(folder / "out"), *options, *QUICK]


def plain_report(rng: Rng) -> list[str]:
    """Return the option that saves the time for the report, but for a few cases."""
    return [] if rng.random() < 0.04 else ["--no-report"]


def image(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """An image with odd pixels, planes or headers."""
    written(rng, folder / "f.fits", hdus_of(rng, story), story, broken=0.0)
    chosen = ["-c", str(rng.choice(NAMES))] if rng.random() < 0.2 else []
    some = ["--set", "psf.fwhm=2.5"] if rng.random() < 0.3 else []
    story += [*chosen, *some]
    return _fit(folder, *chosen, *some, *plain_report(rng))


def damaged(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A file with broken bytes, or that is something else."""
    if rng.random() < 0.15:
        story.append("no FITS")
        (folder / "f.fits").write_bytes(other_bytes(rng))
    else:
        written(rng, folder / "f.fits", hdus_of(rng, story), story, broken=1.0)
    return _fit(folder, *plain_report(rng))


def good_image(rng: Rng, folder: Path) -> None:
    """Write a field with nothing wrong."""
    fits.PrimaryHDU(field(rng, (48, 56)), fits.Header(WCS_CARDS)).writeto(folder / "f.fits")


def settings(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A good image with odd settings on the command line."""
    good_image(rng, folder)
    chosen = [setting(rng) for _ in range(rng.integers(1, 4))]
    story += [text[:80] for text in chosen]
    return _fit(folder, *(part for text in chosen for part in ("--set", text)), *plain_report(rng))


def configuration(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A good image with an odd configuration file."""
    good_image(rng, folder)
    return _fit(folder, "-c", config_file(rng, folder), "--no-report")


def psf_file(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A good image with an odd PSF."""
    good_image(rng, folder)
    size = int(rng.choice([1, 3, 10, 11, 21, 45, 101]))
    yy, xx = np.mgrid[:size, :size] - (size - 1) / 2
    table = np.exp(-(xx**2 + yy**2) / 2.5).astype(np.float32)
    story.append(f"psf of {size}")
    for _ in range(rng.integers(0, 2)):
        table = spoil(rng, table, story, "psf")
    if rng.random() < 0.2:
        table = np.stack([table] * int(rng.choice([1, 4, 5])))
    cards = fits.Header()
    for key in ("OVERSAMP", "NXPSFS", "NYPSFS", "IPSFX01", "JPSFY01", "PSF_SAMP", "POLDEG1", "DET_SAMP"):
        if rng.random() < 0.15:
            cards[key] = NUMBERS[rng.integers(len(NUMBERS))]
            story.append(f"{key}={cards[key]!r}")
    written(rng, folder / "p.fits", fits.HDUList([fits.PrimaryHDU(table, cards)]), story, broken=0.3)
    held = ["--set", "psf_update.kind=none"] if rng.random() < 0.5 else []
    return _fit(folder, "--psf", str(folder / "p.fits"), *held, "--no-report")


def star_list(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A good image with an odd list of stars."""
    good_image(rng, folder)
    rows = ["x,y,flux", *(f"{rng.uniform(0, 55):.2f},{rng.uniform(0, 47):.2f},500" for _ in range(5))]
    for _ in range(rng.integers(0, 3)):
        new = [
            "nan,1,1",
            "5,5",
            "a,b,c",
            "1e9,1,1",
            "-1,5,5",
            "",
            "5,5,inf",
            "5,5,-1e30",
            "x,y",
            "\0",
            "5;5;5",
            "5,5,5,5,5",
            "#",
            "é",
        ]
        at = int(rng.integers(len(rows)))
        rows[at] = new[rng.integers(len(new))]
        story.append(f"row {at}: {rows[at]!r}")
    name = "s" + str(rng.choice([".csv", ".csv", ".txt", ".ecsv", ".fits", ".vot", ".parquet", ""]))
    (folder / name).write_text("\n".join(rows))
    forced = ["-c", "forced"] if rng.random() < 0.6 else []
    story += [name, *forced]
    return _fit(folder, "--positions", str(folder / name), *forced, "--no-report")


def other_files(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A good image with errors or quality in a file of their own, and options about them."""
    good_image(rng, folder)
    name = str(rng.choice(["ERR", "DQ"]))
    plane = other_plane(rng, np.zeros((48, 56)), story, name)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(plane, name=str(rng.choice([name, "WHT", ""])))])
    written(rng, folder / "e.fits", hdus, story, broken=0.2)
    kind = str(rng.choice(["auto", "error", "variance", "ivar"]))
    story.append(kind)
    options = [
        "--set",
        f"input.err_kind={kind}",
        "--set",
        f"input.err_holds={rng.choice(['auto', 'total', 'sky'])}",
    ]
    return _fit(folder, f"--{name.lower()}", str(folder / "e.fits"), *options, "--no-report")


def averaging(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """Catalogues that are none, averaged."""
    columns = [
        fits.Column(key, "D", array=rng.uniform(0, 50, 5))
        for key in ("x", "y", "flux", "flux_err", "ra", "dec")
    ]
    for i in rng.choice(len(columns), rng.integers(0, 3), replace=False):
        columns[i].array[:] = float(rng.choice(ODD_VALUES))
        story.append(f"{columns[i].name}={columns[i].array[0]}")
    keep = [column for column in columns if rng.random() < 0.9]
    for name in "ab":
        table = fits.BinTableHDU.from_columns(keep)
        written(rng, folder / f"{name}.fits", fits.HDUList([fits.PrimaryHDU(), table]), story, broken=0.2)
    radius = str(rng.choice(["0.2", "1.5 pix", "-1", "nan", "x", "1e300", "0", "", "1 furlong"]))
    story.append(f"radius {radius!r}")
    suffix = str(rng.choice([".fits", ".ecsv", ".csv", ".xyz", ""]))
    out = str(folder / f"avg{suffix}")
    return ["average", str(folder / "a.fits"), str(folder / "b.fits"), "-o", out, "--radius", radius]


def showing(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """The command that prints a configuration, with odd settings."""
    chosen = [setting(rng) for _ in range(rng.integers(1, 3))]
    story += [text[:80] for text in chosen]
    band = ["--band", str(rng.choice(["", "F200W", "x" * 200, "é"]))] if rng.random() < 0.3 else []
    given = [config_file(rng, folder)] if rng.random() < 0.5 else []
    return ["config", *given, *band, *(part for text in chosen for part in ("--set", text))]


def simulating(rng: Rng, folder: Path, story: list[str]) -> list[str]:
    """A small scene with odd fields."""
    keys = [
        "nx",
        "ny",
        "n_stars",
        "fwhm",
        "sky",
        "gain",
        "flux_min",
        "flux_max",
        "slope",
        "seed",
        "beta",
        "dead_columns",
        "x",
    ]
    value = VALUES[rng.integers(len(VALUES))]
    key = str(rng.choice(keys))
    story.append(f"{key}={value}"[:80])
    small = ["--set", "nx=48", "--set", "ny=48", "--set", "n_stars=20"]
    return ["simulate", str(folder / "s.fits"), *small, "--set", f"{key}={value}"]


Maker = Callable[[Rng, Path, list[str]], list[str]]
MAKERS: tuple[Maker, ...] = (
    image,
    damaged,
    settings,
    configuration,
    psf_file,
    star_list,
    other_files,
    averaging,
    showing,
    simulating,
)
SHARES = (30, 25, 15, 8, 6, 4, 6, 2, 3, 1)


def told(case: Case) -> str:
    """Return a case on one line."""
    return json.dumps([*case.story, case.arguments])
