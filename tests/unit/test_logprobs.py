"""The one-pass output head against log_softmax and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from rlhf.engine import logprobs as logprobs_module
from rlhf.engine.logprobs import PLAIN, LogitForm, head_logprobs

ROWS, HIDDEN, VOCABULARY = 11, 8, 17


def inputs(dtype: torch.dtype, *, rows: int = ROWS, scale: float = 1.0):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    target_ids = torch.randint(VOCABULARY, (rows,), generator=generator)
    upstream = torch.randn(rows, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype), bias.to(dtype), target_ids, upstream.to(dtype)


def by_autograd(hidden, weight, target_ids, bias, temperature, form=PLAIN):
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits * form.scale
    if form.softcap is not None:
        logits = form.softcap * torch.tanh(logits / form.softcap)
    log_probabilities = (logits / temperature).log_softmax(dim=-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
    return log_probabilities[torch.arange(len(hidden)), target_ids], entropy


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


FORMS = {
    "plain": PLAIN,
    "scaled": LogitForm(scale=0.0625),
    "capped": LogitForm(softcap=3.0),
    "both": LogitForm(scale=1.7, softcap=2.0),
}
EXACT = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"]
)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@EXACT
def test_one_pass_equals_log_softmax_and_autograd(dtype, tolerance, temperature, with_bias, form) -> None:
    hidden, weight, bias, target_ids, upstream = inputs(dtype)
    bias = bias if with_bias else None
    logprobs, entropy = head_logprobs(
        hidden, weight, target_ids, bias=bias, temperature=temperature, form=form, with_entropy=True
    )
    (gradient,) = torch.autograd.grad((logprobs * upstream).sum(), hidden)
    expected, expected_entropy = by_autograd(hidden, weight, target_ids, bias, temperature, form)
    (expected_gradient,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    assert relative(logprobs, expected) < tolerance
    assert relative(entropy, expected_entropy) < tolerance
    assert relative(gradient, expected_gradient) < tolerance


def test_gradient_agrees_with_finite_differences() -> None:
    hidden, weight, bias, target_ids, _ = inputs(torch.float64, rows=3)
    assert torch.autograd.gradcheck(
        lambda h: head_logprobs(h, weight, target_ids, bias=bias, temperature=0.8)[0], (hidden,)
    )


@pytest.mark.parametrize("block", [1, 2 * VOCABULARY, 1000])
@pytest.mark.parametrize("chunk", [1, 4, ROWS - 1, ROWS, ROWS + 1])
@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "learns"])
def test_chunk_boundaries_change_nothing(monkeypatch, chunk, block, learns) -> None:
    hidden, weight, bias, target_ids, upstream = inputs(torch.float64)
    form = LogitForm(softcap=4.0)
    whole = head_logprobs(hidden, weight, target_ids, bias=bias, form=form, with_entropy=True)
    (whole_gradient,) = torch.autograd.grad((whole[0] * upstream).sum(), hidden)
    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(logprobs_module, "BLOCK_LOGITS", block)
    weight.requires_grad_(learns)
    chunked = head_logprobs(hidden, weight, target_ids, bias=bias, form=form, with_entropy=True)
    (gradient,) = torch.autograd.grad((chunked[0] * upstream).sum(), hidden)
    for one, other in zip((*chunked, gradient), (*whole, whole_gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_hand_worked_values() -> None:
    # logits ln 1, ln 2, ln 5: probabilities 1/8, 1/4, 5/8
    hidden = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]], dtype=torch.float64)
    logprobs, entropy = head_logprobs(hidden, weight, torch.tensor([1]), with_entropy=True)
    assert logprobs.item() == pytest.approx(math.log(1 / 4), abs=1e-12)
    assert entropy.item() == pytest.approx(math.log(8) - math.log(2) / 4 - 5 / 8 * math.log(5), abs=1e-12)
    logprobs.sum().backward()
    # d log p / dh = W[1] - sum_k p_k W[k]
    assert hidden.grad.item() == pytest.approx(math.log(2) - math.log(2) / 4 - 5 / 8 * math.log(5), abs=1e-12)


def test_temperature_2_takes_the_root_of_probabilities() -> None:
    # probabilities 1/25, 16/25, 8/25 become proportional to 1, 4, sqrt 8
    weight = torch.tensor([[0.0], [math.log(16)], [math.log(8)]], dtype=torch.float64)
    logprobs, _ = head_logprobs(torch.ones(3, 1, dtype=torch.float64), weight, torch.tensor([0, 1, 2]), temperature=2.0)
    total = 1 + 4 + math.sqrt(8)
    assert logprobs.exp().tolist() == pytest.approx([1 / total, 4 / total, math.sqrt(8) / total], abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(scale=st.sampled_from([0.0, 0.01, 1.0, 30.0, 1e4]), temperature=st.sampled_from([0.05, 1.0, 20.0]))
def test_entropy_lies_between_0_and_ln_vocabulary(scale, temperature) -> None:
    hidden, weight, _bias, target_ids, _ = inputs(torch.float32, scale=scale)
    logprobs, entropy = head_logprobs(hidden, weight, target_ids, temperature=temperature, with_entropy=True)
    assert (entropy >= 0).all()
    assert (entropy <= math.log(VOCABULARY) + 1e-5).all()
    assert logprobs.isfinite().all()
    assert (logprobs <= 1e-6).all()


def test_entropy_has_its_limits_at_certainty_and_at_no_information() -> None:
    target_ids = torch.tensor([0])
    weight = torch.tensor([[1000.0], [0.0], [0.0]])
    _, certain = head_logprobs(torch.ones(1, 1), weight, target_ids, with_entropy=True)
    _, even = head_logprobs(torch.zeros(1, 1), weight, target_ids, with_entropy=True)
    assert certain.item() == 0
    assert even.item() == pytest.approx(math.log(3))


def test_rows_do_not_see_each_other() -> None:
    hidden, weight, _, target_ids, _ = inputs(torch.float64)
    logprobs, _ = head_logprobs(hidden, weight, target_ids)
    (gradient,) = torch.autograd.grad(logprobs[4], hidden)
    assert gradient[4].abs().min() > 0
    gradient[4] = 0
    assert not gradient.any()


def test_entropy_and_head_receive_no_gradient() -> None:
    hidden, weight, bias, target_ids, _ = inputs(torch.float32)
    logprobs, entropy = head_logprobs(hidden, weight, target_ids, bias=bias, with_entropy=True)
    assert logprobs.requires_grad
    assert not entropy.requires_grad
    logprobs.sum().backward()
    assert weight.grad is None
    assert bias.grad is None


def test_without_gradient_the_numbers_are_the_same() -> None:
    hidden, weight, bias, target_ids, _ = inputs(torch.float32)
    with_gradient = head_logprobs(hidden, weight, target_ids, bias=bias, with_entropy=True)
    with torch.no_grad():
        without = head_logprobs(hidden, weight, target_ids, bias=bias, with_entropy=True)
    assert all(one.equal(other) for one, other in zip(with_gradient, without, strict=True))
    assert not without[0].requires_grad


def test_bfloat16_states_give_float32_logprobs() -> None:
    hidden, weight, _, target_ids, upstream = inputs(torch.float32)
    low = hidden.detach().bfloat16().requires_grad_()
    logprobs, entropy = head_logprobs(low, weight.bfloat16(), target_ids, with_entropy=True)
    assert logprobs.dtype == entropy.dtype == torch.float32
    expected, _ = by_autograd(hidden, weight, target_ids, None, 1.0)
    assert (logprobs - expected).abs().max() < 0.1
    (gradient,) = torch.autograd.grad((logprobs * upstream).sum(), low)
    (expected_gradient,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    assert gradient.dtype == torch.bfloat16
    assert relative(gradient.float(), expected_gradient) < 0.03


def test_huge_logits_do_not_overflow() -> None:
    hidden = torch.full((1, 1), 1e4, requires_grad=True)
    logprobs, entropy = head_logprobs(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]), with_entropy=True)
    assert logprobs.item() == pytest.approx(-2e4)
    assert entropy.item() == 0
    logprobs.backward()
    assert hidden.grad.item() == pytest.approx(-2.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_that_divide_by_nothing_are_refused(temperature) -> None:
    hidden, weight, _, target_ids, _ = inputs(torch.float32)
    with pytest.raises(ValueError, match="temperature is"):
        head_logprobs(hidden, weight, target_ids, temperature=temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_entropy_is_measured_on_request_and_changes_no_bit(dtype) -> None:
    hidden, weight, bias, target_ids, _ = inputs(torch.float32)
    arguments = (hidden.to(dtype), weight.to(dtype), target_ids)
    logprobs, entropy = head_logprobs(*arguments, bias=bias.to(dtype))
    assert entropy is None
    assert head_logprobs(*arguments, bias=bias.to(dtype), with_entropy=True)[0].equal(logprobs)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@EXACT
def test_a_head_that_learns_gets_the_gradients_of_autograd(dtype, tolerance, form) -> None:
    hidden, weight, bias, target_ids, upstream = inputs(dtype)
    learning = [hidden, weight.requires_grad_(), bias.requires_grad_()]
    logprobs, entropy = head_logprobs(
        hidden, weight, target_ids, bias=bias, temperature=0.7, form=form, with_entropy=True
    )
    expected, expected_entropy = by_autograd(hidden, weight, target_ids, bias, 0.7, form)
    assert relative(logprobs, expected) < tolerance
    assert relative(entropy, expected_entropy) < tolerance
    assert not entropy.requires_grad
    gradients = torch.autograd.grad((logprobs * upstream).sum(), learning)
    for one, other in zip(gradients, torch.autograd.grad((expected * upstream).sum(), learning), strict=True):
        assert relative(one, other) < tolerance


@pytest.mark.parametrize(
    "config, form",
    [
        (LlamaConfig(), PLAIN),
        (Gemma2Config(), LogitForm(softcap=30.0)),
        (CohereConfig(), LogitForm(scale=0.0625)),
        (GraniteConfig(logits_scaling=4.0), LogitForm(scale=0.25)),
    ],
    ids=["llama", "gemma2", "cohere", "granite"],
)
def test_what_a_model_does_to_its_logits_is_read_from_its_configuration(config, form) -> None:
    assert LogitForm.of(config) == form


def test_a_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="logit_scale='inv_sqrt_d_model', not a number"):
        LogitForm.of(LlamaConfig(logit_scale="inv_sqrt_d_model"))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "learns"])
@EXACT
def test_an_entropy_that_learns_has_the_gradient_of_autograd(dtype, tolerance, learns, form, monkeypatch) -> None:
    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", 4)
    hidden, weight, bias, target_ids, upstream = inputs(dtype)
    weight.requires_grad_(learns)
    logprobs, entropy = head_logprobs(
        hidden, weight, target_ids, bias=bias, temperature=0.7, form=form, with_entropy=True, entropy_learns=True
    )
    expected, expected_entropy = by_autograd(hidden, weight, target_ids, bias, 0.7, form)
    assert relative(entropy, expected_entropy) < tolerance
    for one, other in [
        ((entropy * upstream).sum(), (expected_entropy * upstream).sum()),
        ((entropy.square() - 2 * logprobs).sum(), (expected_entropy.square() - 2 * expected).sum()),
    ]:
        (gradient,) = torch.autograd.grad(one, hidden, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(other, hidden, retain_graph=True)
        assert relative(gradient, expected_gradient) < tolerance


def test_an_entropy_that_learns_changes_no_bit_of_the_logprobs_or_their_gradient() -> None:
    hidden, weight, bias, target_ids, upstream = inputs(torch.float32)
    plain = head_logprobs(hidden, weight, target_ids, bias=bias, with_entropy=True)
    learning = head_logprobs(hidden, weight, target_ids, bias=bias, with_entropy=True, entropy_learns=True)
    assert plain[0].equal(learning[0])
    assert plain[1].equal(learning[1])
    gradients = [torch.autograd.grad((one[0] * upstream).sum(), hidden)[0] for one in (plain, learning)]
    assert gradients[0].equal(gradients[1])


def test_even_odds_are_the_top_of_the_entropy() -> None:
    hidden = torch.zeros(1, 2, requires_grad=True)
    _, entropy = head_logprobs(hidden, torch.eye(2), torch.tensor([0]), with_entropy=True, entropy_learns=True)
    (gradient,) = torch.autograd.grad(entropy.sum(), hidden)
    assert gradient.abs().max() < 1e-7
