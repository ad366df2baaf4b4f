"""Normal equations from overlapping pairs, against a dense design matrix."""

import numpy as np
import pytest

from crowdfit._kernels import normal as kernels
from crowdfit._kernels.stamps import fill_stamps
from crowdfit.neighbours import build_grid
from tests.reference import EPS
from tests.reference import normal as twins
from tests.reference.scenes import ORDERS, make_scene


def raw_stamps(s):
    out = np.empty((3, s.sizes.sum()), np.float32)
    fill_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, out)
    return out


def white_stamps(s):
    out = raw_stamps(s)
    kernels.whiten_stamps(s.x, s.y, s.half, s.offset, s.root, out)
    return out


def linked(s):
    """Return first, links and twins of a scene."""
    grid, first = build_grid(s.x, s.y, s.shape, cell=5), np.zeros(len(s.x) + 1, np.int64)
    kernels.link_pairs(s.x, s.y, s.half, *grid, first, np.empty(0, np.int32))
    first = np.cumsum(first)
    links = np.empty(first[-1], np.int32)
    kernels.link_pairs(s.x, s.y, s.half, *grid, first, links)
    places = np.empty(len(links), np.int64)
    kernels.find_twins(first, links, places)
    return first, links, places


def assembled(s, prior=0.0):
    """Return the normal equations of a scene: own, first, links, cross."""
    first, links, places = linked(s)
    own, cross = np.empty((len(s.x), 9)), np.empty((len(links), 9), np.float32)
    every = np.arange(len(s.x))
    kernels.fill_blocks(every, s.x, s.y, s.half, s.offset, white_stamps(s), first, links, places, own, cross)
    own[:, [4, 8]] += prior
    return own, first, links, cross


@pytest.mark.parametrize("order", ORDERS)
def test_whitened_stamps(order):
    """Zero off the image and on masked pixels, whatever the border cuts."""
    s = make_scene(order)
    expected = twins.whiten_stamps(s.x, s.y, s.half, s.offset, s.root, raw_stamps(s))
    assert np.allclose(white_stamps(s), expected, rtol=EPS, atol=0)


def test_stamps_larger_than_the_image():
    s = make_scene(n=4, shape=(5, 6), largest=8)
    expected = twins.whiten_stamps(s.x, s.y, s.half, s.offset, s.root, raw_stamps(s))
    assert np.allclose(white_stamps(s), expected, rtol=EPS, atol=0)
    rhs = np.empty((4, 3))
    kernels.project_residual(s.x, s.y, s.half, s.offset, white_stamps(s), s.resid, rhs)
    expected = twins.project_residual(s.x, s.y, s.half, s.offset, white_stamps(s), s.resid)
    assert np.allclose(rhs, expected, rtol=1e-12, atol=1e-12)


def test_rows():
    u, v = np.random.default_rng(1).normal(size=(2, 3, 17)).astype(np.float32)
    assert kernels.dot_rows(u[0], v[0]) == pytest.approx(twins.dot_rows(u[0], v[0]), rel=1e-13)
    acc = np.ones(9)
    kernels.overlap_block(*u, *v, acc)
    assert np.allclose(acc.reshape(3, 3) - 1, twins.overlap_block(u, v), rtol=0, atol=1e-12)
    row = u[0].copy()
    kernels.scale_row(row, v[0])
    assert np.allclose(row, twins.scale_row(u[0], v[0]), rtol=EPS, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_projection(order):
    s = make_scene(order)
    stamps, rhs = white_stamps(s), np.empty((len(s.x), 3))
    white = (s.with_masked(1e30) * s.root).astype(np.float32)
    kernels.project_residual(s.x, s.y, s.half, s.offset, stamps, white, rhs)
    expected = twins.project_residual(s.x, s.y, s.half, s.offset, stamps, s.resid * s.root)
    # double-precision sums over a stamp: rounding only
    assert np.allclose(rhs, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_terms", [1, 3])
def test_design_matrix(n_terms):
    """C016, C035: filled by a compiled kernel; one column a star and term, pixels in order."""
    s = make_scene(1)
    ny, nx = s.shape
    stamps, indptr = white_stamps(s), np.zeros(n_terms * len(s.x) + 1, np.int64)
    kernels.count_entries(s.x, s.y, s.half, ny, nx, n_terms, indptr)
    assert np.array_equal(indptr, twins.count_entries(s.x, s.y, s.half, ny, nx, n_terms))
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    kernels.fill_design(s.x, s.y, s.half, s.offset, stamps, s.shape, n_terms, indptr, indices, values)
    dense = np.zeros((ny * nx, n_terms * len(s.x)), np.float32)
    for k, (a, b) in enumerate(zip(indptr, indptr[1:], strict=False)):
        assert np.all(np.diff(indices[a:b]) > 0)
        dense[indices[a:b], k] = values[a:b]
    assert np.array_equal(dense, twins.fill_design(s.x, s.y, s.half, s.offset, stamps, s.shape, n_terms))


@pytest.mark.parametrize("seed", [1, 2])
def test_links(seed):
    """All overlapping pairs, both ways round, those of stars far off the image too."""
    s = make_scene(n=40, seed=seed)
    s.x[10:12], s.y[10:12] = (-70.2, -68.9), (-50.0, -53.1)
    first, links, places = linked(s)
    expected = twins.link_pairs(s.x, s.y, s.half)
    assert np.array_equal(first, expected[0])
    assert np.array_equal(links, expected[1])
    assert 11 in links[first[10] : first[11]]
    assert np.array_equal(places, twins.find_twins(first, links))


@pytest.mark.parametrize("order", ORDERS)
def test_blocks(order):
    """N = A^T A by pairs; own blocks in double precision, cross blocks rounded to single."""
    s = make_scene(order)
    own, first, links, cross = assembled(s)
    expected = twins.fill_blocks(s.x, s.y, s.half, s.offset, white_stamps(s), s.shape)
    n = len(s.x)
    assert np.allclose(own.reshape(n, 3, 3), expected[np.arange(n), np.arange(n)], rtol=1e-11, atol=1e-13)
    full = twins.dense(own, first, links, cross)
    scale = np.sqrt(np.diag(full))
    error = np.abs(full - expected.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n))
    assert np.all(error <= EPS * np.outer(scale, scale) + 1e-13)
    assert np.array_equal(full, full.T)


def test_blocks_in_parts():
    """Of chosen stars only: the parts fill the matrix, each from stamps that are nothing but its own and its halo's."""
    s = make_scene(1, n=25)
    own, first, links, cross = assembled(s)
    _, _, places = linked(s)
    got_own, got_cross = np.full_like(own, np.nan), np.full_like(cross, np.nan)
    for chosen in (np.arange(0, 25, 2), np.arange(1, 25, 2)):
        stamps, needed = white_stamps(s), set(chosen.tolist())
        for i in chosen:
            needed |= {int(j) for j in links[first[i] : first[i + 1]] if j < i}
        for i in set(range(25)) - needed:
            stamps[:, s.offset[i] : s.offset[i] + (2 * s.half[i] + 1) ** 2] = np.nan
        kernels.fill_blocks(
            chosen, s.x, s.y, s.half, s.offset, stamps, first, links, places, got_own, got_cross
        )
        assert np.isnan(got_own).any() == (chosen[0] == 0)
    assert np.array_equal(got_own, own)
    assert np.array_equal(got_cross, cross)


def test_pair_block():
    s = make_scene(n=8)
    stamps, acc = white_stamps(s), np.empty(9)
    s.x[6:8], s.y[6:8] = (20.2, 22.7), (18.4, 17.9)
    i, j = 6, 7
    kernels.pair_block(20, 18, s.half[i], s.offset[i], 23, 18, s.half[j], s.offset[j], stamps, acc)
    expected = twins.pair_block(s.x, s.y, s.half, s.offset, stamps, i, j, s.shape)
    assert np.abs(expected).max() > 0
    assert np.allclose(acc.reshape(3, 3), expected, rtol=1e-11, atol=1e-13)


def test_products():
    s = make_scene(1, n=25)
    own, first, links, cross = assembled(s)
    v, out = np.random.default_rng(4).normal(size=(25, 3)), np.empty((25, 3))
    kernels.apply_normal(own, first, links, cross, v, out)
    assert np.allclose(out, twins.apply_normal(own, first, links, cross, v), rtol=1e-11, atol=1e-11)


def test_inverse_blocks():
    """Regular blocks; then one star wholly masked, one seen by a single pixel, one without shifts."""
    a = np.random.default_rng(5).normal(size=(6, 3, 5))
    blocks = np.einsum("nip,njp->nij", a, a)
    blocks[3], blocks[4], blocks[5] = 0, np.outer([1, 2, 3], [1, 2, 3]), np.diag([4.0, 0, 0])
    own, inverse = blocks.reshape(6, 9).copy(), np.empty((6, 9))
    kernels.invert_blocks(own, inverse)
    assert np.allclose(inverse, twins.invert_blocks(own), rtol=1e-9, atol=1e-12)
    v, out = np.random.default_rng(6).normal(size=(6, 3)), np.empty((6, 3))
    kernels.apply_inverse(inverse, v, out)
    assert np.allclose(out, twins.apply_inverse(inverse, v), rtol=1e-13, atol=1e-13)


def run_pcg(s, tol, limit=200):
    own, first, links, cross = assembled(s, prior=0.05)
    rhs = np.random.default_rng(7).normal(size=(len(s.x), 3)) * np.sqrt(own[:, [0, 4, 8]])
    inverse, answer = np.empty_like(own), np.zeros_like(rhs)
    kernels.invert_blocks(own, inverse)
    iterations = kernels.solve_pcg(own, inverse, first, links, cross, rhs, tol, limit, answer)
    return (
        iterations,
        answer,
        own,
        twins.solve_pcg(own + np.eye(3).ravel() * 1e-300, first, links, cross, rhs),
    )


def test_conjugate_gradients():
    """C020: the tolerance is in units of each unknown's own error; the answer is that of a dense solve."""
    s = make_scene(1, n=25)
    s.x[1:6], s.y[1:6] = s.x[7:12] + 1.1, s.y[7:12] - 0.4  # close pairs, and nobody off the image
    iterations, answer, own, expected = run_pcg(s, 1e-8)
    assert 0 < iterations < 200
    assert np.all(np.abs(answer - expected) * np.sqrt(own[:, [0, 4, 8]]) < 1e-6)


def test_conjugate_gradients_say_when_they_stop_early():
    s = make_scene(1, n=25)
    assert run_pcg(s, 1e-12, limit=2)[0] == -2


def test_conjugate_gradients_leave_unseen_stars_alone():
    """A star off the image or wholly masked has an empty row and stays at 0."""
    s = make_scene(n=12)
    own, first, links, cross = assembled(s)
    inverse, answer = np.empty_like(own), np.zeros((12, 3))
    rhs = np.where(own[:, [0, 4, 8]] > 0, 1.0, 0.0)
    kernels.invert_blocks(own, inverse)
    assert kernels.solve_pcg(own, inverse, first, links, cross, rhs, 1e-3, 400, answer) >= 0
    assert own[3, 0] == 0  # far off the image
    assert np.all(answer[3] == 0)
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("name", ["stamps", "projection", "twins", "blocks", "product", "design"])
def test_threads(name, same_bits):
    s = make_scene(2, n=60)
    stamps, n = white_stamps(s), 60
    own, first, links, cross = assembled(s)

    def design():
        indptr = np.zeros(3 * n + 1, np.int64)
        kernels.count_entries(s.x, s.y, s.half, *s.shape, 3, indptr)
        out = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        kernels.fill_design(s.x, s.y, s.half, s.offset, stamps, s.shape, 3, indptr, *out)
        return out

    def projection():
        rhs = np.empty((n, 3))
        kernels.project_residual(s.x, s.y, s.half, s.offset, stamps, s.resid, rhs)
        return [rhs]

    def product():
        out = np.empty((n, 3))
        kernels.apply_normal(own, first, links, cross, np.cos(np.arange(3.0 * n)).reshape(n, 3), out)
        return [out]

    works = {
        "stamps": lambda: [white_stamps(s)],
        "projection": projection,
        "twins": lambda: linked(s),
        "blocks": lambda: assembled(s),
        "product": product,
        "design": design,
    }
    same_bits(works[name])
