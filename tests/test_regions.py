"""DS9 regions: places that count from 1, right ascensions from 0 to 360."""

import numpy as np
import pytest
from astropy.table import Table

from crowdfit.errors import InputError
from crowdfit.io.regions import write_regions


def test_circles(tmp_path):
    table = Table({"id": [7, 8], "x": [0.0, np.nan], "y": [2.5, 1.0]})
    text = write_regions(table, tmp_path / "a.reg", 3, "red").read_text()
    assert text.splitlines() == [
        "# Region file format: DS9",
        "global color=red width=1",
        "image",
        "circle(1.0000,3.5000,3) # tag={7}",
    ]
    table["ra"], table["dec"] = [-0.5, 1.0], [1.0, 2.0]
    lines = write_regions(table, tmp_path / "a.reg").read_text().splitlines()
    assert lines[2:] == [
        "icrs",
        'circle(359.50000000,1.00000000,0.1") # tag={7}',
        'circle(1.00000000,2.00000000,0.1") # tag={8}',
    ]


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="neither ra, dec nor x, y"):
        write_regions(Table({"id": [1]}), tmp_path / "a.reg")
    with pytest.raises(InputError, match="must be positive"):
        write_regions(Table({"x": [1.0], "y": [1.0]}), tmp_path / "a.reg", 0)
