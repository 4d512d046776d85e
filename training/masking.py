"""What is hidden from the model in pre-training: patches and words, drawn for each sample from its own generator."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..modeling_violet.losses import IGNORE_INDEX

MASK_KINDS = ("random", "block", "attended", "correlated")


def sample_generator(seed: int, epoch: int, sample: str) -> torch.Generator:
    """The generator of one sample in one epoch: neither workers, processes nor the order of samples can change it."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{sample}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) % 2**63)


@dataclass(frozen=True)
class Masking:
    """
    How samples are masked.

    Attributes:
        kinds: probability of each kind of patch mask, which is drawn for each sample: `random` (each patch by itself),
            `block` (boxes in space and time), `attended` (patches and words in proportion to the attention that they
            receive), `correlated` (groups of patches with similar features; the model chooses them in its pass, from
            the sample's noise). But for `attended`, words are masked at random.
        patch_ratio: share of the patches that `random` and `correlated` hide, and of patches and words together that
            `attended` does.
        word_ratio: share of the words that are hidden.
    """

    kinds: Mapping[str, float] = field(default_factory=lambda: {"random": 1.0})
    patch_ratio: float = 0.15
    word_ratio: float = 0.15

    def __post_init__(self):
        unknown = sorted(set(self.kinds) - set(MASK_KINDS))
        if unknown:
            raise ValueError(f"`masks`: {', '.join(unknown)} is unknown; known are {', '.join(MASK_KINDS)}.")
        if not self.kinds or min(self.kinds.values()) < 0 or sum(self.kinds.values()) <= 0:
            raise ValueError(f"`masks`: {dict(self.kinds)} must have weights of 0 or more, one of them above 0.")
        for name in ("patch_ratio", "word_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}`: must lie in [0, 1], got {getattr(self, name)}.")
        if self.kinds.get("correlated") and not 0 < self.patch_ratio < 1:
            raise ValueError(
                f"`patch_ratio`: with the mask 'correlated' it must lie between 0 and 1, got {self.patch_ratio}; 1 "
                "leaves nothing to see."
            )

    def draw_kind(self, generator: torch.Generator) -> str:
        # in an order of its own: that of the mapping, which a settings file does not keep, must not decide the draw
        names = [kind for kind in MASK_KINDS if kind in self.kinds]
        weights = torch.tensor([self.kinds[kind] for kind in names], dtype=torch.float64)
        return names[int(torch.multinomial(weights, 1, generator=generator))]

    def draw_patches(self, kind: str, grid: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
        """(frames, rows, columns), True where a patch is hidden; nothing yet for `attended` and `correlated`."""
        if kind == "random":
            return torch.rand(grid, generator=generator) < self.patch_ratio
        if kind == "block":
            return block_mask(grid, generator)
        return torch.zeros(grid, dtype=torch.bool)

    def draw_words(self, maskable: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(tokens,), True where a word may be hidden -> True where it is."""
        return (torch.rand(maskable.shape, generator=generator) < self.word_ratio) & maskable


def block_mask(grid: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """
    As many boxes as there are frames, each of 1 to T - 1 frames, 1 to less than 2/3 of the rows and of the columns,
    all uniform, at a uniform place (VIOLET's block-wise masking). (frames, rows, columns), True within a box.
    """

    def draw(low: int, high: int) -> int:
        """An integer of [low, high), or low if there is none."""
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    frames, rows, columns = grid
    mask = torch.zeros(grid, dtype=torch.bool)
    for _ in range(frames):
        box = draw(1, frames), draw(1, math.ceil(rows * 2 / 3)), draw(1, math.ceil(columns * 2 / 3))
        start = [draw(0, side - length + 1) for side, length in zip(grid, box, strict=True)]
        mask[tuple(slice(first, first + length) for first, length in zip(start, box, strict=True))] = True
    return mask


def mask_words(input_ids: torch.Tensor, hidden: torch.Tensor, mask_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces hidden words by [MASK], all of them: (masked ids, labels), the labels −100 where nothing is hidden."""
    return input_ids.masked_fill(hidden, mask_token_id), input_ids.masked_fill(~hidden, IGNORE_INDEX)


def mask_attended(
    batch: dict[str, torch.Tensor], received: torch.Tensor, ratio: float, mask_token_id: int
) -> dict[str, torch.Tensor]:
    """
    Masks the samples of a batch that are to be masked by attention: a share of all patches and words, drawn without
    repetition with probability in proportion to the attention that each receives.

    Args:
        batch: with `attended` (batch,), which samples; `mask_noise` (batch, places), uniform in (0, 1), from the
            samples' own generators; `maskable_words` (batch, X); and what is to be masked: `input_ids`, `labels`,
            `bool_masked_pos`.
        received: (batch, frames * (special + rows * columns) + X), see `VioletForPreTraining`.
        ratio: the share.

    Returns:
        `input_ids`, `labels` and `bool_masked_pos` in place of the batch's.
    """
    ids, masked = batch["input_ids"], batch["bool_masked_pos"]
    frames, rows, columns = masked.shape[1:]
    by_frame = received[:, : -ids.shape[1]].unflatten(1, (frames, -1))
    # (batch, frames, special + rows * columns) -> (batch, frames * rows * columns), without the special tokens
    patches = by_frame[:, :, -rows * columns :].flatten(1)
    words = received[:, -ids.shape[1] :].masked_fill(~batch["maskable_words"], 0)
    attention = torch.cat([patches, words], dim=1)
    # The largest of log(weight) + Gumbel noise are a draw without repetition (Efraimidis and Spirakis, 2006).
    keys = attention.log() - (-batch["mask_noise"].log()).log()
    count = ratio * (patches.shape[1] + batch["maskable_words"].sum(1))
    rank = keys.argsort(dim=1, descending=True).argsort(dim=1)
    hidden = (rank < count.round()[:, None]) & (attention > 0)
    chosen = batch["attended"]
    by_attention = hidden[:, : patches.shape[1]].view(masked.shape)
    new_ids, new_labels = mask_words(ids, hidden[:, patches.shape[1] :], mask_token_id)
    return {
        "bool_masked_pos": torch.where(chosen[:, None, None, None], by_attention, masked),
        "input_ids": torch.where(chosen[:, None], new_ids, ids),
        "labels": torch.where(chosen[:, None], new_labels, batch["labels"]),
    }
