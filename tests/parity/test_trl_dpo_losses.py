"""TRL's DPO losses and ours on the same random log-probabilities: values and gradients, in float32.

TRL's own `_compute_loss` runs on padded rows with a model that only says the log-probabilities given; our trainer runs
on a packed batch of the same tokens in another order.
"""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
import trl
from peft import LoraConfig
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from rlhf.engine.backbone import Backbone
from rlhf.engine.packing import Group
from rlhf.training.dpo_arguments import LOSSES, NOT_OFFERED, DPOArguments
from rlhf.training.dpo_trainer import DPOTrainer
from rlhf.training.examples import RankedGroup, collate_pairs

BETA = 0.3
NUM_PAIRS = 5
PROMPT_LENGTH = 3
LossAndGradients = tuple[torch.Tensor, list[torch.Tensor]]  # these at each response's tokens, chosen ones first
CPU = SimpleNamespace(device=torch.device("cpu"), gather=lambda t: t, gather_for_metrics=lambda t: t)


class Pairs:
    """Random log-probabilities of tokens, under policy and reference, of pairs of responses."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(1, 9, (2 * NUM_PAIRS,), generator=draw).tolist()  # chosen ones first
        self.policy = [-2 * torch.rand(length, generator=draw) for length in self.lengths]
        self.reference = [-2 * torch.rand(length, generator=draw) for length in self.lengths]

    def in_turn(self, of_responses: list) -> list:
        """Chosen and rejected by pair, in every other pair the rejected one first."""
        turned = []
        for pair in range(NUM_PAIRS):
            sides = [of_responses[pair], of_responses[NUM_PAIRS + pair]]
            turned += sides[::-1] if pair % 2 else sides
        return turned


@pytest.fixture(scope="module")
def make_trainer(tiny_model, tmp_path_factory):
    def make(**settings: object) -> DPOTrainer:
        backbone = Backbone(tiny_model())
        lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        backbone.add_adapter("policy", lora)
        settings = {"beta": BETA, **settings}
        args = DPOArguments(output_dir=str(tmp_path_factory.mktemp("ours")), use_cpu=True, dtype="float32", **settings)
        return DPOTrainer(backbone, args, backbone_path="tiny", train_dataset=[None])

    return make


def our_loss(trainer: DPOTrainer, pairs: Pairs) -> LossAndGradients:
    examples = []
    lengths = pairs.in_turn(pairs.lengths)
    for number in range(NUM_PAIRS):
        group = Group([1] * PROMPT_LENGTH, [[3 + number] * length for length in lengths[2 * number : 2 * number + 2]])
        pair = (1, 0) if number % 2 else (0, 1)
        examples.append(RankedGroup(group, [pair], margin=1.5, weight=1.0, prompt_id=str(number)))
    batch = collate_pairs(examples)
    sums = torch.stack([tokens.double().sum() for tokens in pairs.in_turn(pairs.reference)])
    if trainer.args.needs_reference:
        trainer.reference_cache.add(batch.groups, sums)
    policy = torch.cat(pairs.in_turn(pairs.policy)).requires_grad_()
    count = trainer._get_num_items_in_batch([examples], torch.device("cpu"))
    trainer._records = False
    loss = trainer.compute_loss(
        lambda packed, roles: {"policy": SimpleNamespace(logprobs=policy)}, batch, num_items_in_batch=count
    )
    loss.backward()
    assert policy.grad is not None
    parts = list(policy.grad.split(lengths))
    order = torch.arange(2 * NUM_PAIRS).tolist()
    back = dict(zip(pairs.in_turn(order), parts, strict=True))
    return loss.detach(), [back[index] for index in order]


def trl_loss(pairs: Pairs, loss_types: list[str], **settings: object) -> LossAndGradients:
    longest = max(pairs.lengths)
    mask = torch.zeros(2 * NUM_PAIRS, PROMPT_LENGTH + longest, dtype=torch.long)
    logprobs = torch.full((2 * NUM_PAIRS, PROMPT_LENGTH + longest - 1), 0.0)
    for row, tokens in enumerate(pairs.policy):
        mask[row, PROMPT_LENGTH : PROMPT_LENGTH + len(tokens)] = 1
        logprobs[row, PROMPT_LENGTH - 1 : PROMPT_LENGTH - 1 + len(tokens)] = tokens
    logprobs.requires_grad_()
    others = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(log_probs=logprobs, entropy=others, mean_logits=others, is_top1=others > 0)
    trainer = object.__new__(trl.DPOTrainer)
    given = {
        "model": SimpleNamespace(training=True),
        "accelerator": CPU,
        "args": SimpleNamespace(discopop_tau=0.05),
        "loss_types": loss_types,
        "loss_weights": [1.0] * len(loss_types),
        "beta": BETA,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "_metrics": {"train": trl.trainer.dpo_trainer.defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**given, **settings}.items():
        object.__setattr__(trainer, name, value)
    sums = torch.stack([tokens.sum() for tokens in pairs.reference])
    inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask}
    inputs |= {"ref_chosen_logps": sums[:NUM_PAIRS], "ref_rejected_logps": sums[NUM_PAIRS:]}
    loss = trainer._compute_loss(lambda **_: outputs, inputs, False)
    loss.backward()
    assert logprobs.grad is not None
    start = PROMPT_LENGTH - 1
    gradients = [logprobs.grad[row, start : start + length] for row, length in enumerate(pairs.lengths)]
    return loss.detach(), gradients


def assert_equal(ours: LossAndGradients, theirs: LossAndGradients) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    assert torch.cat(theirs[1]).norm() > 1e-3
    torch.testing.assert_close(torch.cat(ours[1]), torch.cat(theirs[1]), rtol=1e-5, atol=1e-6)


ALONE = ["sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft"]
CASES = {
    **{name: ([name], {}) for name in ALONE},
    "exo_pair": (["exo_pair"], {"label_smoothing": 1e-3}),
    "robust": (["robust"], {"label_smoothing": 0.1}),
    "RPO": (["sigmoid", "sft"], {"loss_weights": [1.0, 0.2]}),
    "MPO": (["sigmoid", "bco_pair", "sft"], {"loss_weights": [0.8, 0.2, 1.0]}),
    "small beta": (["sigmoid", "nca_pair"], {"beta": 0.01}),
    "forward_kl": (["sigmoid"], {"f_divergence_type": "forward_kl", "beta": 0.01}),
    "js_divergence": (["hinge", "ipo"], {"f_divergence_type": "js_divergence"}),
    "alpha .5": (["sigmoid", "robust"], {"f_divergence_type": "alpha_divergence"}),
    "alpha 1": (["sigmoid"], {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_losses_and_gradients_are_those_of_trl(case, make_trainer) -> None:
    losses, settings = CASES[case]
    trainer = make_trainer(loss_type=losses, **settings)
    for seed in range(4):
        pairs = Pairs(seed)
        assert_equal(our_loss(trainer, pairs), trl_loss(pairs, losses, **settings))


def test_length_normalization_is_trls_sigmoid_norm(make_trainer) -> None:
    trainer = make_trainer(length_normalization=True)
    for seed in range(4):
        pairs = Pairs(seed)
        assert_equal(our_loss(trainer, pairs), trl_loss(pairs, ["sigmoid_norm"]))


def of_means(pairs: Pairs, loss) -> LossAndGradients:
    """A loss of TRL that reads mean log-probabilities, chosen and rejected, and its gradients."""
    tokens = [part.clone().requires_grad_() for part in pairs.policy]
    means = torch.stack([part.mean() for part in tokens])
    value = loss(tokens[:NUM_PAIRS], means[:NUM_PAIRS], means[NUM_PAIRS:])
    value.backward()
    return value.detach(), [part.grad for part in tokens]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_simpo_is_that_of_trl(label_smoothing, make_trainer) -> None:
    trainer = make_trainer(loss_type=["simpo"], beta=2.0, simpo_gamma=0.8, label_smoothing=label_smoothing)
    settings = {"loss_type": "simpo", "alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.8}
    theirs = SimpleNamespace(**settings, label_smoothing=label_smoothing, accelerator=CPU)
    for seed in range(4):
        expected = of_means(Pairs(seed), lambda _, c, r: CPOTrainer.cpo_loss(theirs, c, r)[0].mean())
        assert_equal(our_loss(trainer, Pairs(seed)), expected)


def test_orpo_is_that_of_trl_with_the_likelihood_of_the_response_alone(make_trainer) -> None:
    """TRL's likelihood is of the prompt's tokens too, which ours never predicts."""
    trainer = make_trainer(loss_type=["orpo"], beta=0.2)
    theirs = SimpleNamespace(beta=0.2, accelerator=CPU)

    def loss(chosen_tokens: list[torch.Tensor], chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return -torch.cat(chosen_tokens).mean() - ORPOTrainer.odds_ratio_loss(theirs, chosen, rejected)[0].mean()

    for seed in range(4):
        assert_equal(our_loss(trainer, Pairs(seed)), of_means(Pairs(seed), loss))


def test_every_loss_of_trl_is_offered_or_said_not_to_be() -> None:
    said = trl.DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    names = re.findall(r"`'(\w+)'`", said)
    assert "sigmoid" in names
    assert len(names) == 15
    assert set(names) <= {*LOSSES, *NOT_OFFERED}
    assert set(NOT_OFFERED) == set(names) - set(LOSSES)
