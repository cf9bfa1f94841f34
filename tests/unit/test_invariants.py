"""Laws that hold for any prompts and responses, through the model and the packed row; drawn, not chosen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from reward.losses import bradley_terry_loss
from rlhf.algorithms.dpo import sigmoid_loss
from rlhf.algorithms.kl import kl_estimate
from rlhf.algorithms.ppo import policy_loss
from rlhf.engine.backbone import POLICY, REFERENCE, Backbone, Role
from rlhf.engine.generation import MergedCopy
from rlhf.engine.packing import Group, PackedBatch, pack

TOKENS = st.lists(st.integers(3, 60), min_size=1, max_size=6)
GROUPS = st.lists(st.builds(Group, TOKENS, st.lists(TOKENS, min_size=2, max_size=3)), min_size=1, max_size=3)
TRAINED = Role("trained", adapter="trained", logprobs=True, entropy=True, score_head="reward")
EXAMPLES = settings(deadline=None, max_examples=20)


@pytest.fixture(scope="module")
def backbone(tiny_model) -> Backbone:
    """With the adapter `policy` as it begins (B = 0), the adapter `trained` far from zero and a reward head."""
    backbone = Backbone(tiny_model())
    for name in ("policy", "trained"):
        backbone.add_adapter(name, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(0)
    for parameter in [*backbone.adapter_parameters("trained").values(), backbone.add_head("reward").linear.weight]:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return backbone.eval()


@EXAMPLES
@given(GROUPS)
def test_a_policy_that_is_the_reference_has_no_kl_and_ratio_one(backbone, groups) -> None:
    """LoRA starts with B = 0: adapter on is adapter off, to the last bit."""
    with torch.no_grad():
        output = backbone(pack(groups), [REFERENCE, POLICY])
    policy, reference = output["policy"].logprobs, output["reference"].logprobs
    assert policy.equal(reference)
    for kind in ("k1", "k2", "k3"):
        assert not kl_estimate(policy, reference, kind).any()
    loss = policy_loss(policy, policy, torch.randn(policy.shape), clip_range=0.2)
    assert loss.ratio.equal(torch.ones_like(loss.ratio))
    assert not loss.clipped.any()


@EXAMPLES
@given(GROUPS, st.floats(0.01, 1.0))
def test_dpo_starts_at_ln_2_whatever_the_pair(backbone, groups, beta) -> None:
    packed = pack(groups)
    with torch.no_grad():
        output = backbone(packed, [REFERENCE, POLICY])
    logratio = packed.sum_by_response(output["policy"].logprobs - output["reference"].logprobs)
    losses = sigmoid_loss(beta * (logratio - logratio.roll(1)), torch.ones_like(logratio))
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)))


@EXAMPLES
@given(GROUPS)
def test_two_passes_over_one_row_agree_to_the_last_bit(backbone, groups) -> None:
    with torch.no_grad():
        first, second = (backbone(pack(groups), [TRAINED])["trained"] for _ in range(2))
    for name in ("logprobs", "entropy", "scores"):
        assert getattr(first, name).equal(getattr(second, name)), name


@EXAMPLES
@given(GROUPS)
def test_entropy_lies_between_nothing_and_ln_vocabulary(backbone, groups) -> None:
    with torch.no_grad():
        entropy = backbone(pack(groups), [TRAINED])["trained"].entropy
    assert (entropy >= 0).all()
    assert (entropy <= math.log(backbone.config.vocab_size) + 1e-5).all()


@EXAMPLES
@given(GROUPS)
def test_merged_weights_say_what_the_adapter_says(backbone, merged, response_logprobs, groups) -> None:
    with torch.no_grad():
        packed = pack(groups)
        rows = backbone(packed, [TRAINED])["trained"].logprobs.split(list(packed.response_lengths))
        sequences = [(group.prompt_ids, ids) for group in groups for ids in group.response_ids]
        for row, (prompt, ids) in zip(rows, sequences, strict=True):
            torch.testing.assert_close(response_logprobs(merged, prompt, ids), row, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def merged(backbone):
    copy = MergedCopy(backbone, "trained")
    copy.sync()
    return copy.model


@EXAMPLES
@given(GROUPS, TOKENS)
def test_what_stands_beside_a_group_changes_neither_its_scores_nor_its_gradient(backbone, groups, others) -> None:
    """Other groups are to a packed row what padding is to a padded one: masked."""
    backbone.train_only(adapters=["trained"], heads=["reward"])

    def learned(batch: PackedBatch, num_groups: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        scores = backbone(batch, [TRAINED])["trained"].scores[batch.group_index < num_groups]
        backbone.zero_grad()
        bradley_terry_loss(scores[:-1], scores[1:]).sum().backward()
        parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        return scores.detach(), [parameter.grad.clone() for parameter in parameters]

    alone = learned(pack(groups), len(groups))
    beside = learned(pack([*groups, Group(others, [others, others[::-1]])]), len(groups))
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-4)
