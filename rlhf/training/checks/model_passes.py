"""A few short passes of a loaded model: what PPO and DPO take for granted of a policy, and anyone of a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rlhf.data.chat import Chat
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone, Role
from rlhf.engine.generation import MergedCopy, Sampler, Sampling
from rlhf.engine.packing import Group, pack
from rlhf.training.checks.findings import FATAL, Finding

NUM_TOKENS = 8  # decoded to compare with the training pass
# Mean difference of token probabilities between decoding and training pass; rounding alone makes .006 to .012 of it in
# bfloat16 on SmolLM2-135M, and less than 1e-4 in float32.
GAP = {torch.float64: 0.01, torch.float32: 0.01, torch.bfloat16: 0.05}
# By how much a score may change with what stands beside it: rounding, in units of a score of deviation 1.
SCORE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.2}


def check_policy(
    backbone: Backbone, chat: Chat, prompts: Sequence[Sequence[int]], *, is_fresh: bool
) -> Iterator[Finding]:
    """Finite outputs, a ratio of exactly 1, a first KL of exactly 0, and decoding that says what training says.

    Args:
        backbone: with an adapter `policy`; nothing of it is changed, and no second copy of its weights is made.
        chat: its chat format.
        prompts: token ids of two or three short prompts.
        is_fresh: whether the adapter is untrained, so that the policy must equal the reference.
    """
    sampler = Sampler(
        MergedCopy(backbone, "policy", merged=False).model,
        stop_ids=chat.stop_ids,
        pad_id=chat.end_of_turn_id if chat.pad_id is None else chat.pad_id,
    )
    samples = [drawn for (drawn,) in sampler.sample(prompts, Sampling(max_new_tokens=NUM_TOKENS, temperature=0))]
    groups = [Group(prompt, [sample.token_ids]) for prompt, sample in zip(prompts, samples, strict=True)]
    batch = pack(groups).to(backbone.device)
    with _as_in_training(backbone):
        first, again = (backbone(batch, [REFERENCE, POLICY]) for _ in range(2))
    policy, reference, second = first["policy"].logprobs, first["reference"].logprobs, again["policy"].logprobs
    decoded = torch.tensor([value for sample in samples for value in sample.logprobs], device=policy.device)
    if not bool(torch.isfinite(policy).all() and torch.isfinite(decoded).all()):
        yield Finding(
            "outputs_not_finite",
            FATAL,
            f"log-probabilities of {int((~torch.isfinite(policy)).sum())} of {policy.numel()} tokens are NaN or "
            "infinite",
            "load the model in the type it was trained in (--dtype), or take an intact copy of its weights",
        )
        return
    ratio = (second - policy).exp()
    if not bool((ratio == 1).all()):
        yield Finding(
            "ratio_not_one",
            FATAL,
            f"two passes over the same tokens give other log-probabilities: the ratio is {ratio.min():.6f} to "
            f"{ratio.max():.6f} before any update, where PPO clips around 1",
            "switch off what is random in a pass: dropout of the model or adapter, noise of a quantised layer",
        )
    kl = (policy - reference).abs()
    if is_fresh and bool((kl != 0).any()):
        yield Finding(
            "first_kl_not_zero",
            FATAL,
            f"an untrained adapter is up to {kl.max():.2e} nats a token away from the reference: the KL does not "
            "begin at 0",
            "start from a plain LoRA adapter whose B is zero",
        )
    gap = float((policy.exp() - decoded.exp()).abs().mean())
    limit = GAP.get(backbone.dtype, 0.05)
    if gap > limit:
        yield Finding(
            "decoding_gap",
            FATAL,
            f"token probabilities of decoding and of the training pass are {gap:.3f} apart on average, over {limit}: "
            "rollouts would be of another policy than the one trained",
            "use --dtype float32 to see whether rounding is the cause; if not, choose --rollout_engine transformers "
            "and report the model",
        )


def check_scores(backbone: Backbone, role: Role, groups: Sequence[Group], *, field: str) -> Iterator[Finding]:
    """Scores that are finite, differ between responses, and do not depend on what stands beside them.

    Args:
        backbone: with the adapter and head of `role`.
        role: reads a score.
        groups: two or three prompts with responses.
        field: the argument that named the reward model.
    """
    with _as_in_training(backbone):
        together = _scores(backbone, role, groups)
        backwards = _scores(backbone, role, groups[::-1])[::-1]
        alone = [_scores(backbone, role, [group])[0] for group in groups]
    yield from judge_scores(
        torch.cat(together),
        {"another order": torch.cat(backwards), "no other prompt beside": torch.cat(alone)},
        tolerance=SCORE_TOLERANCE.get(backbone.dtype, 0.2),
        field=field,
    )


def judge_scores(
    scores: torch.Tensor, otherwise: dict[str, torch.Tensor], *, tolerance: float, field: str
) -> Iterator[Finding]:
    """Findings on `[n]` scores of n unlike responses, and on the same computed in other batches."""
    if not bool(torch.isfinite(scores).all()):
        yield Finding(
            "scores_not_finite",
            FATAL,
            f"{field} gives {int((~torch.isfinite(scores)).sum())} of {len(scores)} responses a score that is NaN or "
            "infinite",
            "load it in the type it was trained in (--dtype), or train it again with a lower learning rate",
        )
        return
    if len(scores) > 1 and float(scores.max() - scores.min()) < 1e-6:
        yield Finding(
            "scores_constant",
            FATAL,
            f"{field} gives all {len(scores)} probe responses the score {float(scores[0]):.6g}",
            "look at how it was trained: a head that was never trained or saved says the same of everything",
        )
    for way, others in otherwise.items():
        change = (others - scores).abs()
        if float((change / scores.abs().clamp(min=1)).max()) > tolerance:
            worst = int(change.argmax())
            yield Finding(
                "scores_depend_on_batch",
                FATAL,
                f"{field} gives a response another score with {way}: it changes by up to {float(change.max()):.4g}",
                "score with batch size 1, or take a model whose attention leaves other rows out",
                example=f"probe response {worst + 1}: {float(scores[worst]):.4g} and {float(others[worst]):.4g}",
            )
            return


def _scores(backbone: Backbone, role: Role, groups: Sequence[Group]) -> list[torch.Tensor]:
    scores = backbone(pack(groups).to(backbone.device), [role])[role.name].scores
    return list(scores.float().split([len(group.response_ids) for group in groups]))


@contextmanager
def _as_in_training(module: torch.nn.Module) -> Iterator[None]:
    """Train mode, as the Trainer sets it: dropout that is not switched off shows. Random numbers stay as they were."""
    was_training = module.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        module.train()
        try:
            yield
        finally:
            module.train(was_training)
