"""The picture of a histogram of oriented gradients, as `skimage.feature.hog(..., visualize=True)` draws it."""

import math

import torch
from torch import nn

ORIENTATIONS = 9
CELL = 8


def _line(row: int, column: int, last_row: int, last_column: int) -> list[tuple[int, int]]:
    """The pixels of a straight line, both ends included (Bresenham, 1965, doi:10.1147/sj.41.0025)."""
    rows, columns = abs(last_row - row), abs(last_column - column)
    row_step, column_step = (1 if last_row > row else -1), (1 if last_column > column else -1)
    steep = rows > columns
    along, across = (rows, columns) if steep else (columns, rows)
    error, pixels = 2 * across - along, []
    for _ in range(along):
        pixels.append((row, column))
        if error >= 0:
            row, column = (row, column + column_step) if steep else (row + row_step, column)
            error -= 2 * along
        row, column = (row + row_step, column) if steep else (row, column + column_step)
        error += 2 * across
    return [*pixels, (last_row, last_column)]


def _segments() -> torch.Tensor:
    """(orientations, cell, cell), 1 on the line that stands for an orientation: perpendicular to the gradient."""
    radius, centre = CELL // 2 - 1, CELL // 2
    picture = torch.zeros(ORIENTATIONS, CELL, CELL)
    for orientation in range(ORIENTATIONS):
        angle = math.pi * (orientation + 0.5) / ORIENTATIONS
        down, right = radius * math.sin(angle), radius * math.cos(angle)
        for row, column in _line(int(centre - right), int(centre + down), int(centre + right), int(centre - down)):
            picture[orientation, row, column] = 1
    return picture


def hog_picture(pictures: torch.Tensor) -> torch.Tensor:
    """
    Gradients' orientations (9, unsigned) in cells of 8x8 pixels (Dalal and Triggs, 2005, doi:10.1109/CVPR.2005.177),
    drawn: every cell holds one line per orientation, as bright as the cell's mean gradient of that orientation. At
    each pixel the channel with the strongest gradient counts. Blocks and their normalisation do not enter the picture.

    Args:
        pictures: (n, channels, H, W), with values in [0, 1].

    Returns:
        (n, 1, H, W), float32, 0 or more; rows and columns behind the last whole cell are 0.
    """
    n, _, H, W = pictures.shape
    rows, columns = H // CELL, W // CELL
    x = pictures.float()
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[..., 1:-1, :] = x[..., 2:, :] - x[..., :-2, :]
    right[..., 1:-1] = x[..., 2:] - x[..., :-2]
    strongest = torch.hypot(down, right).argmax(1, keepdim=True)
    down, right = down.gather(1, strongest).double(), right.gather(1, strongest).double()
    magnitude = torch.hypot(down, right)
    turn = torch.rad2deg(torch.atan2(down, right)) % 180
    bins = (turn / (180 / ORIENTATIONS)).long().clamp(max=ORIENTATIONS - 1)
    # (n, 1, H, W) -> (n, orientations, H, W) -> (n, orientations, rows, columns)
    votes = torch.zeros(n, ORIENTATIONS, H, W, dtype=magnitude.dtype, device=x.device).scatter_(1, bins, magnitude)
    histogram = nn.functional.avg_pool2d(votes, CELL).float()
    segments = _segments().to(x.device)
    # (n, rows, cell, columns, cell) -> (n, rows * cell, columns * cell)
    drawn = torch.einsum("norc,oij->nricj", histogram, segments).flatten(3, 4).flatten(1, 2)
    return nn.functional.pad(drawn, (0, W - columns * CELL, 0, H - rows * CELL)).unsqueeze(1)
