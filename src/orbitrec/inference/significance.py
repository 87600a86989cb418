"""How many samples of a posterior matter."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIGNIFICANT = 0.999
"""Share of an observation's posterior that its significant samples hold, RELION's adaptive fraction."""
HALVINGS = 6
"""Of the range of probabilities, on a logarithmic scale, in which the least of the significant samples is."""


def significant_samples(p: Float[Tensor, "b ..."], share: float = SIGNIFICANT) -> Int[Tensor, "b"]:
    """How many samples make up a share of each observation's posterior, the largest first.

    Args:
        p: posterior probabilities, which sum to 1 for each observation.
        share: of the posterior, below 1.

    Returns:
        (b,) the fewest samples that together hold more than the share.
    """
    p = p.flatten(1)
    # Samples below `low` together hold less than what may be left out, and those above `high` no more than the share.
    # Sorting takes most of the time, so the two are brought near to each other first.
    low = torch.full_like(p[:, :1], (1 - share) / p.shape[1])
    p = _packed(p, p > low)
    high = p.amax(1, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        enough = (p * (p > middle)).sum(1, keepdim=True) > share
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above = p > high
    rest = _packed(p, (p > low) & ~above)
    held = torch.cat([(p * above).sum(1, keepdim=True), rest.sort(1, descending=True).values], dim=1).cumsum(1)
    return above.sum(1) + torch.minimum((held <= share).sum(1), (rest > 0).sum(1))


def _packed(p: Float[Tensor, "b n"], kept: Bool[Tensor, "b n"]) -> Float[Tensor, "b most"]:
    """The entries of each row that are kept, side by side, and zeros behind them."""
    index = kept.flatten().nonzero().squeeze(1)
    rows = index // p.shape[1]
    counts = rows.bincount(minlength=len(p))
    place = torch.arange(len(rows), device=p.device) - (counts.cumsum(0) - counts)[rows]
    packed = p.new_zeros(len(p), int(counts.max()))
    packed[rows, place] = p.flatten()[index]
    return packed
