"""Student's t distribution, for intervals of means whose spread is estimated from few values."""

from __future__ import annotations

import math

import numpy as np

_NORMAL = 1.9599639845400545
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


def t_quantile(freedom: float) -> float:
    """How many standard errors half of a 95 % interval has with so many degrees of freedom, whole or not.

    With t = √f · tan θ the distribution is an integral of cos^(f-1), smooth and over a bounded range.

    Args:
        freedom: at least 1; infinity gives the normal distribution's 1.96.
    """
    if freedom > 1e6:
        return _NORMAL
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = _NORMAL, 13.0  # for 1 degree it is 12.7
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        angle = math.atan(middle / math.sqrt(freedom))
        inside = scale * angle / 2 * float(_WEIGHTS @ np.cos(angle * (_NODES + 1) / 2) ** (freedom - 1))
        low, high = (middle, high) if inside < 0.95 else (low, middle)
    return low
