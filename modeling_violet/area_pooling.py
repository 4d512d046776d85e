"""Means of a map over equal parts of it: exact areas, of any number of parts and cells, without parameters."""

import torch


def area_weights(start: torch.Tensor, end: torch.Tensor, parts: int, cells: int) -> torch.Tensor:
    """
    What each cell of a line contributes to the mean over each part of a stretch of it, if a map is constant in a cell.

    Args:
        start, end: (...), where the stretch begins and ends, as shares of the line; it is cut into equal parts.
        parts: how many.
        cells: of the line.

    Returns:
        (..., parts, cells), float32; each row sums to 1 if the stretch lies on the line.
    """
    width = (end - start).float().unsqueeze(-1) * cells / parts  # (..., 1), in cells
    begins = start.float().unsqueeze(-1) * cells + width * torch.arange(parts, device=start.device)  # (..., parts)
    cell = torch.arange(cells, device=start.device)
    ends = (begins + width).unsqueeze(-1)
    overlap = torch.minimum(ends, cell + 1.0) - torch.maximum(begins.unsqueeze(-1), cell.float())
    return overlap.clamp(min=0) / width.unsqueeze(-1)


def pool_areas(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Maps (..., rows, columns, width) -> means over side x side equal parts: (..., side, side, width)."""
    first, last = maps.new_zeros(()), maps.new_ones(())
    rows = area_weights(first, last, side, maps.shape[-3]).to(maps.dtype)
    columns = area_weights(first, last, side, maps.shape[-2]).to(maps.dtype)
    return torch.einsum("pr,...rcd,qc->...pqd", rows, maps, columns)
