"""Twins of `crowdfit._kernels.marginal`: dense inverses of the matrix around each star."""

import numpy as np

from tests.reference.normal import dense


def closest_links(x, y, first, links, i, reach, most):
    linked = links[first[i] : first[i + 1]]
    distance = np.hypot(x[linked] - x[i], y[linked] - y[i])
    order = np.argsort(distance, kind="stable")
    return linked[order][distance[order] <= reach][:most]


def fill_local_matrix(i, chosen, prior, own, first, links, cross):
    """Return the whole matrix of the chosen stars and of star i, which comes last."""
    n = len(own)
    full = dense(own, first, links, cross) + np.diag(np.outer(prior, [0, 1, 1]).ravel())
    stars = np.append(chosen, i).astype(int)
    return full.reshape(n, 3, n, 3)[stars][:, :, stars].reshape(3 * len(stars), 3 * len(stars))


def invert_one(i, x, y, reach, most, prior, own, first, links, cross):
    chosen = closest_links(x, y, first, links, i, reach, most)
    local = fill_local_matrix(i, chosen, prior, own, first, links, cross)
    return np.diag(np.linalg.inv(local))[-3:]


def invert_around(x, y, reach, most, prior, own, first, links, cross):
    rest = (x, y, reach, most, prior, own, first, links, cross)
    return np.array([invert_one(i, *rest) if own[i, 0] > 0 else [np.inf] * 3 for i in range(len(x))])
