"""The likelihood of a whole ranking."""

from __future__ import annotations

import torch


def plackett_luce_loss(utilities: torch.Tensor, ranks: torch.Tensor, group_index: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each group's ranking under Plackett (1975) and Luce (1959).

        L = sum_i [ log sum_{j: rank_j >= rank_i} exp u_j - u_i ]

    The best response is chosen among all, the next among the rest, and so on. With two responses it is
    -log sigmoid(u_1 - u_2), Bradley and Terry's. Equal ranks compete with each other and with what is worse (Breslow's
    form for ties in Cox's partial likelihood, which is the same product). With u the score it trains a reward model;
    with u = beta log(policy / reference) it is DPO on rankings, equation 20 of arXiv 2305.18290 (appendix A.3).

    Args:
        utilities: `[responses]`, differentiable; a constant added to all of a group changes nothing.
        ranks: `[responses]`, smaller is better, equal numbers tie.
        group_index: `[responses]` which group each belongs to, counted from 0 without gaps.

    Returns:
        `[groups]`.
    """
    same_group = group_index[:, None] == group_index[None, :]
    competes = same_group & (ranks[None, :] >= ranks[:, None])
    among = torch.where(competes, utilities[None, :], -torch.inf).logsumexp(dim=1)
    losses = utilities.new_zeros(int(group_index.max()) + 1)
    return losses.index_add(0, group_index, among - utilities)
