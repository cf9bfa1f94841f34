"""One rollout in numbers over all processes, with standard errors, and its samples with what monitors look for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from rlhf.training.monitors import RolloutSummary
from rlhf.training.rollout import RolloutBatch
from rlhf.training.rollout_metrics import distinct_bigrams, sample_rows

Reduce = Callable[[torch.Tensor], torch.Tensor]


def summarise(rollout: Sequence[RolloutBatch], step: int, *, reduce: Reduce, device: torch.device) -> RolloutSummary:
    """The means of a rollout over all processes and their standard errors.

    Responses to one prompt resemble each other, so the errors are those of a sample of prompts (the cluster-robust
    ratio estimator; Cochran, Sampling Techniques, 1977, eq. 6.9 without the finite population). Scores that are not
    finite do not count.

    Args:
        rollout: measured batches of this process.
        step: the step that the rollout belongs to.
        reduce: sums a tensor over all processes.
        device: where `reduce` wants its tensor.
    """
    measured = _measured(rollout)
    names = list(measured)
    rows = [_cluster_sums(values, prompts) for values, prompts in measured.values()]
    scores, lengths = measured["objective/score"][0], measured["objective/response_length"][0]
    rows += [_pair_sums(lengths, scores), *_value_sums(rollout)]
    sums = reduce(torch.stack(rows).to(device)).cpu()
    means, errors = {}, {}
    for name, row in zip(names, sums, strict=False):
        mean, error = _mean_and_error(row)
        means[name] = mean
        if not math.isnan(error):
            errors[name] = error
    correlation, count = _correlation(sums[len(names)])
    if count > 2:
        means["reward/length_correlation"] = correlation
        errors["reward/length_correlation"] = (1 - correlation**2) / math.sqrt(count - 1)
    for row in sums[len(names) + 1 :]:
        means["value/explained_variance"] = _explained(row)
    return RolloutSummary(step, means, errors)


def highest_ratio(sums: Sequence[torch.Tensor], *, reduce: Reduce, device: torch.device) -> float:
    """The highest mean policy ratio of a minibatch over all processes; NaN where there was none.

    Args:
        sums: `[2]` for each minibatch: sum of the ratios in this process, and their count.
    """
    if not sums:
        return math.nan
    totals = reduce(torch.stack([total.to(device) for total in sums]))
    return float((totals[:, 0] / totals[:, 1].clamp(min=1)).max())


def alarm_rows(rollout: Sequence[RolloutBatch], step: int) -> list[dict[str, Any]]:
    """The samples of this process with what an alarm chooses by: length, entropy, copies and more."""
    copies = Counter(text for batch in rollout for text in batch.texts)
    return [
        row | extra | {"copies": copies[row["response"]]}
        for batch in rollout
        for row, extra in zip(sample_rows(batch, step), _extras(batch), strict=True)
    ]


def _extras(batch: RolloutBatch) -> Iterator[dict[str, float]]:
    counts = torch.tensor(batch.packed.response_lengths, device=batch.entropy.device)
    per_token = {"entropy": batch.entropy, "sampler_gap": _sampler_gap(batch)}
    if _has_values(batch):
        per_token["value_error"] = (batch.returns - batch.old_values).square()
    columns = {name: (batch.packed.sum_by_response(value) / counts).tolist() for name, value in per_token.items()}
    columns["length"] = list(batch.packed.response_lengths)
    columns["distinct_2"] = [distinct_bigrams(text) for text in batch.texts]
    if batch.judge_scores is not None:
        columns["judge_score"] = batch.judge_scores.tolist()
        scores = zip(_standardised(batch.scores), _standardised(batch.judge_scores), strict=True)
        columns["score_over_judge"] = [score - judge for score, judge in scores]
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _standardised(scores: torch.Tensor) -> list[float]:
    scores = scores.nan_to_num()
    return ((scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)).tolist()


def _measured(rollout: Sequence[RolloutBatch]) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    """By metric name: its values, one for each response or token, and which prompt each belongs to; float64, CPU."""
    offset = 0
    of_response, of_token = [], []
    for batch in rollout:
        of_response.append(batch.packed.group_index + offset)
        of_token.append(of_response[-1][batch.packed.response_index])
        offset += batch.packed.num_groups
    prompts, token_prompts = (torch.cat(parts).cpu() for parts in (of_response, of_token))
    texts = [text for batch in rollout for text in batch.texts]
    copies = Counter(texts)
    kl = [batch.old_logprobs - batch.ref_logprobs for batch in rollout]
    by_response = {
        "objective/score": torch.cat([batch.scores for batch in rollout]),
        "objective/kl": torch.cat([b.packed.sum_by_response(part) for b, part in zip(rollout, kl, strict=True)]),
        "objective/eos_rate": torch.cat([batch.finished for batch in rollout]),
        "objective/response_length": torch.tensor([n for batch in rollout for n in batch.packed.response_lengths]),
        "objective/distinct_2": torch.tensor([distinct_bigrams(text) for text in texts]),
        "objective/distinct_responses": torch.tensor([1 / copies[text] for text in texts]),
    }
    judged = [batch.judge_scores for batch in rollout if batch.judge_scores is not None]
    if judged:
        by_response["objective/judge_score"] = torch.cat(judged)
    by_token = {
        "objective/kl_per_token": torch.cat(kl),
        "objective/entropy": torch.cat([batch.entropy for batch in rollout]),
        "policy/sampler_gap": torch.cat([_sampler_gap(batch) for batch in rollout]),
    }
    return {name: (values.cpu().double(), prompts) for name, values in by_response.items()} | {
        name: (values.cpu().double(), token_prompts) for name, values in by_token.items()
    }


def _sampler_gap(batch: RolloutBatch) -> torch.Tensor:
    return (batch.old_logprobs.exp() - batch.sampler_logprobs.exp()).abs()


def _has_values(batch: RolloutBatch) -> bool:
    return hasattr(batch, "old_values") and hasattr(batch, "returns")


def _cluster_sums(values: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """`[6]` sums over clusters of: sum s, count n, 1, s^2, s n, n^2. Values that are not finite do not count."""
    finite = values.isfinite()
    num_clusters = int(clusters.max()) + 1
    s = values.new_zeros(num_clusters).index_add(0, clusters[finite], values[finite])
    n = values.new_zeros(num_clusters).index_add(0, clusters[finite], torch.ones_like(values[finite]))
    return torch.stack([s, n, (n > 0).double(), s * s, s * n, n * n]).sum(dim=1)


def _mean_and_error(sums: torch.Tensor) -> tuple[float, float]:
    """Mean and its standard error from `_cluster_sums`; NaN where there is nothing, or one cluster only."""
    s, n, clusters, ss, sn, nn = sums.tolist()
    if n == 0:
        return math.nan, math.nan
    mean = s / n
    if clusters < 2:
        return mean, math.nan
    spread = max(0.0, ss - 2 * mean * sn + mean * mean * nn)
    return mean, math.sqrt(spread * clusters / (clusters - 1)) / n


def _pair_sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`[6]` sums of x, y, x^2, y^2, x y, 1 where y is finite."""
    x, y = x[y.isfinite()], y[y.isfinite()]
    return torch.stack([x.sum(), y.sum(), x @ x, y @ y, x @ y, x.new_tensor(float(len(x)))])


def _correlation(sums: torch.Tensor) -> tuple[float, float]:
    """Pearson's correlation from `_pair_sums`, 0 where one of the two does not vary, and the count."""
    x, y, xx, yy, xy, n = sums.tolist()
    if n == 0:
        return 0.0, 0.0
    spread = (xx - x * x / n) * (yy - y * y / n)
    smallest = 1e-12 * max(xx * yy, 1e-300)
    return ((xy - x * y / n) / math.sqrt(spread) if spread > smallest else 0.0), n


def _value_sums(rollout: Sequence[RolloutBatch]) -> list[torch.Tensor]:
    """One `[6]` row of sums of returns and of what values leave of them, or none without a value model."""
    if not all(_has_values(batch) for batch in rollout):
        return []
    returns = torch.cat([batch.returns[batch.counted_tokens] for batch in rollout]).cpu().double()
    error = returns - torch.cat([batch.old_values[batch.counted_tokens] for batch in rollout]).cpu().double()
    return [_pair_sums(returns, error)]


def _explained(sums: torch.Tensor) -> float:
    """Share of the returns' variance that the values explain."""
    r, e, rr, ee, _, n = sums.tolist()
    spread = rr - r * r / n
    return 1 - (ee - e * e / n) / spread if spread > 1e-12 * rr else 0.0
