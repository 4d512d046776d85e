"""Natural cubic splines through rows of a table: positions for another number of places than were learned."""

from functools import lru_cache

import numpy as np
import torch


@lru_cache(maxsize=32)
def spline_weights(rows: int, places: int) -> np.ndarray:
    """
    (places, rows) float64: place j of a natural cubic spline through rows that stand at k / rows, at j / places. Row 0
    is place 0; beyond the last row the spline is a straight line, as before the first.

    The rows have the same distance, so that second derivatives M (0 at both ends) solve the tridiagonal system
    M[k-1] + 4 M[k] + M[k+1] = 6 (y[k-1] - 2 y[k] + y[k+1]), here for each unit vector y at once.
    """
    unit = np.eye(rows)
    if rows == 1:
        return np.ones((places, 1))
    bent = np.zeros((rows, rows))
    if rows > 2:
        bent[1:-1] = _solve(6 * (unit[:-2] - 2 * unit[1:-1] + unit[2:]))
    at = np.arange(places) * (rows / places)
    left = np.minimum(at.astype(int), rows - 2)
    b = (at - left)[:, None]
    a = 1 - b
    y0, y1, m0, m1 = unit[left], unit[left + 1], bent[left], bent[left + 1]
    inside = a * y0 + b * y1 + ((a**3 - a) * m0 + (b**3 - b) * m1) / 6
    beyond = y1 + (b - 1) * (y1 - y0 + (m0 + 2 * m1) / 6)  # the slope at the last row
    return np.where(b > 1, beyond, inside)


def _solve(right: np.ndarray) -> np.ndarray:
    """The tridiagonal system with 4 on its diagonal and 1 beside it, by elimination: (n, columns) -> (n, columns)"""
    factors, found = np.empty(len(right)), right.copy()
    for k in range(len(right)):
        factors[k] = 1 / (4 - (factors[k - 1] if k else 0))
        found[k] = (found[k] - (found[k - 1] if k else 0)) * factors[k]
    for k in range(len(right) - 2, -1, -1):
        found[k] -= factors[k] * found[k + 1]
    return found


def natural_spline(table: torch.Tensor, places: int) -> torch.Tensor:
    """
    Rows (n, width) for another number of places, (places, width), see `spline_weights`; as they are for n. Computed in
    float64: in float32 a table of some hundred rows comes out as noise from some solvers.
    """
    if len(table) == places:
        return table
    weights = torch.from_numpy(spline_weights(len(table), places)).to(table.device)
    return (weights @ table.double()).to(table.dtype)
