"""Two policies on the same prompts, judged response by response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.data.comparisons import Comparison, Response
from rlhf.evaluation.judges import Judge
from rlhf.evaluation.metrics import Estimate, win_rate


@dataclass(frozen=True)
class HeadToHead:
    """What came of it.

    Attributes:
        win_rate: of the policy, a tie counting one half, with an interval by prompt.
        comparisons: the judged pairs, the policy's response first.
    """

    win_rate: Estimate
    comparisons: list[Comparison]


def head_to_head(
    prompts: Sequence[Comparison],
    responses: Sequence[Sequence[Response]],
    opponent_responses: Sequence[Sequence[Response]],
    judge: Judge,
    judge_name: str,
) -> HeadToHead:
    """Let a judge compare the n-th response of the policy with the n-th of its opponent, for every prompt.

    Args:
        prompts: `[prompts]`.
        responses: `[prompts][samples]` of the policy.
        opponent_responses: `[prompts][samples]` of its opponent; surplus samples of either are left out.
        judge: who decides.
        judge_name: recorded as the annotator.
    """
    outcomes, groups, comparisons = [], [], []
    for prompt, ours, theirs in zip(prompts, responses, opponent_responses, strict=True):
        for a, b in zip(ours, theirs, strict=False):
            outcome = judge.compare(prompt.prompt, a, b)
            outcomes.append(outcome)
            groups.append(prompt.prompt_id)
            comparisons.append(
                Comparison(
                    prompt=prompt.prompt,
                    responses=(a, b),
                    ranks=(1, 2) if outcome > 0.5 else (2, 1) if outcome < 0.5 else (1, 1),
                    annotators=(judge_name,),
                    source="head-to-head",
                )
            )
    return HeadToHead(win_rate(outcomes, groups), comparisons)
