"""The DPO losses as functions: values by hand and by numpy, gradients, symmetries and limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms import dpo
from rlhf.algorithms.plackett_luce import plackett_luce_loss

BETA, SMOOTHING, SHIFT = 0.4, 0.1, 0.3
LOGRATIOS = st.floats(-40, 40)
TARGETS = st.floats(0.5, 1)
LN2, LN3 = math.log(2), math.log(3)


def tensor(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def minus_log_sigmoid(x: float) -> float:
    return float(np.logaddexp(0, -x))


# For each loss: ours, and what its paper writes in numpy, both of chosen and rejected log-ratio; and its start.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ONE = tensor(1.0)
LOSSES: dict[str, tuple[Loss, Callable[[float, float], float], float]] = {
    "sigmoid": (
        lambda c, r: dpo.sigmoid_loss(BETA * (c - r), ONE),
        lambda c, r: minus_log_sigmoid(BETA * (c - r)),
        LN2,
    ),
    "conservative": (
        lambda c, r: dpo.sigmoid_loss(BETA * (c - r), dpo.smoothed_target(ONE, SMOOTHING)),
        lambda c, r: 0.9 * minus_log_sigmoid(BETA * (c - r)) + 0.1 * minus_log_sigmoid(BETA * (r - c)),
        LN2,
    ),
    "robust": (
        lambda c, r: dpo.robust_loss(BETA * (c - r), ONE, SMOOTHING),
        lambda c, r: (0.9 * minus_log_sigmoid(BETA * (c - r)) - 0.1 * minus_log_sigmoid(BETA * (r - c))) / 0.8,
        LN2,
    ),
    "hinge": (lambda c, r: dpo.hinge_loss(BETA * (c - r), ONE), lambda c, r: max(0.0, 1 - BETA * (c - r)), 1.0),
    "exo_pair": (
        lambda c, r: dpo.exo_pair_loss(BETA * (c - r), ONE, SMOOTHING),
        lambda c, r: sum(
            math.exp(-minus_log_sigmoid(x)) * (-minus_log_sigmoid(x) - math.log(p))
            for x, p in ((BETA * (c - r), 0.9), (BETA * (r - c), 0.1))
        ),
        math.log(1 / 2) - (math.log(0.9) + math.log(0.1)) / 2,
    ),
    "ipo": (lambda c, r: dpo.ipo_loss(c - r, ONE, BETA), lambda c, r: (c - r - 1.25) ** 2, 1.5625),
    "sppo_hard": (
        lambda c, r: dpo.sppo_hard_loss(c, r, BETA),
        lambda c, r: (c - 1.25) ** 2 + (r + 1.25) ** 2,
        3.125,
    ),
    "nca_pair": (
        lambda c, r: dpo.nca_pair_loss(BETA * c, BETA * r),
        lambda c, r: (
            minus_log_sigmoid(BETA * c) + 0.5 * minus_log_sigmoid(-BETA * c) + 0.5 * minus_log_sigmoid(-BETA * r)
        ),
        2 * LN2,
    ),
    "bco_pair": (
        lambda c, r: dpo.bco_pair_loss(BETA * c, BETA * r, SHIFT),
        lambda c, r: minus_log_sigmoid(BETA * c - SHIFT) + minus_log_sigmoid(SHIFT - BETA * r),
        minus_log_sigmoid(-SHIFT) + minus_log_sigmoid(SHIFT),
    ),
    "apo_zero": (
        lambda c, r: dpo.apo_zero_loss(BETA * c, BETA * r),
        lambda c, r: 1 - sigmoid(BETA * c) + sigmoid(BETA * r),
        1.0,
    ),
    "apo_down": (
        lambda c, r: dpo.apo_down_loss(BETA * c, BETA * r),
        lambda c, r: sigmoid(BETA * c) + 1 - sigmoid(BETA * (c - r)),
        1.0,
    ),
}
names = pytest.mark.parametrize("name", list(LOSSES))


def gradients(loss: Loss, chosen: float, rejected: float) -> tuple[float, float]:
    c, r = tensor(chosen).requires_grad_(), tensor(rejected).requires_grad_()
    loss(c, r).sum().backward()
    assert c.grad is not None
    assert r.grad is not None
    return c.grad.item(), r.grad.item()


@names
@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS)
def test_a_loss_is_what_its_paper_writes(name, chosen, rejected) -> None:
    loss, by_numpy, _ = LOSSES[name]
    assert loss(tensor(chosen), tensor(rejected)).item() == pytest.approx(by_numpy(chosen, rejected), abs=1e-9)


@names
def test_a_loss_starts_where_it_should(name) -> None:
    loss, _, start = LOSSES[name]
    assert loss(tensor(0.0), tensor(0.0)).item() == pytest.approx(start, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(beta=st.floats(0.01, 10), target=TARGETS, smoothing=st.floats(0, 0.45), same=LOGRATIOS)
def test_every_sigmoid_loss_starts_at_ln_2(beta, target, smoothing, same) -> None:
    margin, p = beta * (tensor(same) - tensor(same)), tensor(target)
    for loss in (
        dpo.sigmoid_loss(margin, p),
        dpo.sigmoid_loss(margin, dpo.smoothed_target(p, smoothing)),
        dpo.robust_loss(margin, p, smoothing),
        plackett_luce_loss(margin.repeat(2), torch.tensor([1.0, 2.0]), torch.tensor([0, 0])),
        dpo.odds_ratio_loss(tensor(-abs(same) - 0.1), tensor(-abs(same) - 0.1)),
    ):
        assert loss.item() == pytest.approx(LN2, abs=1e-9)


@names
def test_the_first_step_raises_the_chosen_and_lowers_the_rejected(name) -> None:
    chosen, rejected = gradients(LOSSES[name][0], 0.0, 0.0)
    # apo_down lowers both: the chosen one starts to fall when the rejected one has
    assert chosen == 0 if name == "apo_down" else chosen < 0
    assert rejected > 0
    if name in ("sigmoid", "conservative", "robust", "hinge", "ipo", "exo_pair"):
        assert rejected == -chosen, "only the difference counts"


@settings(deadline=None, max_examples=60)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS, shift=LOGRATIOS)
def test_losses_of_the_margin_see_no_shift_of_both(chosen, rejected, shift) -> None:
    for name in ("sigmoid", "conservative", "robust", "hinge", "ipo", "exo_pair"):
        loss = LOSSES[name][0]
        shifted = loss(tensor(chosen + shift), tensor(rejected + shift)).item()
        assert shifted == pytest.approx(loss(tensor(chosen), tensor(rejected)).item(), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(margin=LOGRATIOS, target=TARGETS, smoothing=st.floats(0.01, 0.45))
def test_swapping_a_pair_is_the_opposite_margin_and_target(margin, target, smoothing) -> None:
    m, p = tensor(margin), tensor(target)
    for loss in (
        dpo.sigmoid_loss,
        dpo.hinge_loss,
        lambda x, t: dpo.ipo_loss(x, t, BETA),
        lambda x, t: dpo.robust_loss(x, t, smoothing),
        lambda x, t: dpo.exo_pair_loss(x, t, smoothing),
    ):
        assert loss(m, p).item() == pytest.approx(loss(-m, 1 - p).item(), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS)
def test_a_pair_and_its_swap_are_probabilities_of_one_event_and_its_opposite(chosen, rejected) -> None:
    loss = LOSSES["sigmoid"][0]
    c, r = tensor(chosen), tensor(rejected)
    assert math.exp(-loss(c, r).item()) + math.exp(-loss(r, c).item()) == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS, target=TARGETS)
def test_the_gradient_is_beta_times_how_wrong_the_pair_is_ranked(chosen, rejected, target) -> None:
    c, r = gradients(lambda c, r: dpo.sigmoid_loss(BETA * (c - r), tensor(target)), chosen, rejected)
    assert c == pytest.approx(-BETA * (target - sigmoid(BETA * (chosen - rejected))), abs=1e-12)
    assert r == -c


def test_hand_worked_values() -> None:
    # a margin of ln 3: sigmoid is 3/4
    m = tensor(LN3)
    assert dpo.sigmoid_loss(m, ONE).item() == pytest.approx(math.log(4 / 3))
    assert dpo.sigmoid_loss(m, tensor(0.8)).item() == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(4))
    assert dpo.robust_loss(m, ONE, 0.25).item() == pytest.approx(1.5 * math.log(4 / 3) - 0.5 * math.log(4))
    assert dpo.hinge_loss(tensor(0.25), tensor(0.8)).item() == pytest.approx(0.8 * 0.75 + 0.2 * 1.25)
    assert dpo.exo_pair_loss(m, ONE, 0.25).item() == pytest.approx(0, abs=1e-12)
    assert dpo.exo_pair_loss(m, ONE, 0.5).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert dpo.ipo_loss(tensor(0.5), tensor(0.75), 0.25).item() == pytest.approx(0.75 * 1.5**2 + 0.25 * 2.5**2)
    assert dpo.apo_zero_loss(m, -m).item() == pytest.approx(0.25 + 0.25)
    assert dpo.apo_down_loss(m, tensor(0.0)).item() == pytest.approx(0.75 + 0.25)
    assert dpo.bco_pair_loss(m + 1, tensor(1.0), 1.0).item() == pytest.approx(math.log(4 / 3) + LN2)
    # odds of 3 and of 1/3: probabilities 3/4 and 1/4
    odds = dpo.odds_ratio_loss(tensor(math.log(0.75)), tensor(math.log(0.25)))
    assert odds.item() == pytest.approx(math.log(10 / 9))


# ---- limits ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(margin=LOGRATIOS, target=TARGETS)
def test_robust_without_flips_is_dpo(margin, target) -> None:
    m, p = tensor(margin), tensor(target)
    assert dpo.robust_loss(m, p, 0.0).equal(dpo.sigmoid_loss(m, p))


@settings(deadline=None, max_examples=40)
@given(margin=LOGRATIOS, flip_rate=st.floats(0, 0.4))
def test_robust_is_unbiased_under_flipped_labels(margin, flip_rate) -> None:
    m = tensor(margin)
    kept, flipped = dpo.robust_loss(m, ONE, flip_rate), dpo.robust_loss(-m, ONE, flip_rate)
    mean = (1 - flip_rate) * kept + flip_rate * flipped
    assert mean.item() == pytest.approx(dpo.sigmoid_loss(m, ONE).item(), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(chosen=LOGRATIOS, rejected=LOGRATIOS)
def test_plackett_luce_of_two_is_dpo(chosen, rejected) -> None:
    utilities = BETA * torch.cat([tensor(rejected), tensor(chosen)])
    loss = plackett_luce_loss(utilities, torch.tensor([2.0, 1.0]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(minus_log_sigmoid(BETA * (chosen - rejected)), abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "least"),
    [
        (lambda x: dpo.ipo_loss(x, ONE, BETA), 1 / (2 * BETA)),
        (lambda x: dpo.ipo_loss(x, tensor(0.75), BETA), 1 / (4 * BETA)),
        (lambda x: dpo.sigmoid_loss(x, tensor(0.75)), LN3),
        (lambda x: dpo.sigmoid_loss(x, tensor(0.5)), 0.0),
        (lambda x: dpo.exo_pair_loss(x, ONE, 0.25), LN3),
        (lambda x: dpo.hinge_loss(x, tensor(0.75)), 1.0),
        (lambda x: dpo.sppo_hard_loss(x, tensor(0.0), BETA), 1 / (2 * BETA)),
    ],
    ids=["ipo", "ipo of 3/4", "sigmoid of 3/4", "sigmoid of a tie", "exo_pair", "hinge of 3/4", "sppo_hard"],
)
def test_a_loss_is_least_where_its_paper_puts_the_optimum(loss, least) -> None:
    grid = [least + step / 8 for step in range(-8, 9)]
    values = [loss(tensor(x)).item() for x in grid]
    assert grid[values.index(min(values))] == least


def test_hinge_is_zero_beyond_its_margin() -> None:
    assert dpo.hinge_loss(torch.tensor([1.0, 1.5, 40.0]), torch.ones(3)).tolist() == [0, 0, 0]
    assert gradients(lambda c, r: dpo.hinge_loss(c - r, ONE), 3.0, 0.0) == (0, 0)


def test_nca_holds_the_chosen_one_up_where_dpo_lets_it_fall() -> None:
    chosen, rejected = -5.0, -30.0  # well apart, both far below the reference
    fall, _ = gradients(LOSSES["sigmoid"][0], chosen, rejected)
    held, _ = gradients(LOSSES["nca_pair"][0], chosen, rejected)
    assert held < 100 * fall < 0


def test_far_apart_logratios_neither_overflow_nor_vanish() -> None:
    far = torch.tensor([1e4, -1e4])
    assert dpo.sigmoid_loss(far, torch.ones(2)).tolist() == [0, 1e4]
    assert dpo.sigmoid_loss(far, torch.full((2,), 0.9)).tolist() == pytest.approx([1e3, 9e3])
    assert all(dpo.exo_pair_loss(far, torch.ones(2), 1e-3).isfinite())


def test_certain_responses_have_finite_odds_and_gradients() -> None:
    logprobs = torch.tensor([0.0, -1e-9, -1e-4, -50.0, -2000.0], requires_grad=True)
    losses = dpo.odds_ratio_loss(logprobs, logprobs.detach().flip(0))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


@names
def test_pairs_do_not_see_each_other(name) -> None:
    chosen, rejected = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, -2.0, 30.0], [0.0, 5.0, 7.0]))
    loss = LOSSES[name][0]
    alone = [loss(c, r).item() for c, r in zip(chosen.split(1), rejected.split(1), strict=True)]
    assert loss(chosen, rejected).tolist() == pytest.approx(alone)


# ---- divergences ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(logratio=st.floats(-20, 20), alpha=st.floats(0, 0.95))
def test_scores_of_divergences_are_derivatives_of_their_generators(logratio, alpha) -> None:
    """By numeric differentiation of f: t log t, -log t, t log t - (t + 1) log((t + 1) / 2), and alpha's."""
    t = np.longdouble(math.exp(logratio))
    generators = {
        "reverse_kl": lambda u: u * np.log(u) - u,
        "forward_kl": lambda u: u - np.log(u),
        "js_divergence": lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
        "alpha_divergence": lambda u: (u**alpha / alpha - u) / (alpha - 1) if alpha > 0.05 else None,
    }
    for name, f in generators.items():
        step = t * np.longdouble(1e-5)
        if f(t) is not None:
            slope = float((f(t + step) - f(t - step)) / (2 * step))
            score = dpo.divergence_score(tensor(logratio), name, alpha).item()
            assert score == pytest.approx(slope, rel=1e-4, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(low=st.floats(-60, 60), step=st.floats(0.1, 5))
def test_scores_rise_with_the_ratio_and_start_at_0(low, step) -> None:
    for name in dpo.DIVERGENCES:
        first, second = (dpo.divergence_score(tensor(x), name, 0.5).item() for x in (low, low + step))
        assert second >= first
        assert dpo.divergence_score(tensor(0.0), name, 0.5).item() == pytest.approx(0, abs=1e-12)
        assert dpo.divergence_score(torch.tensor([-500.0, 500.0]), name, 0.5).isfinite().all()


def test_alpha_goes_from_forward_to_reverse_kl() -> None:
    logratio = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for alpha, limit in ((0.0, "forward_kl"), (1.0, "reverse_kl"), (1 + 1e-5, "reverse_kl")):
        score = dpo.divergence_score(logratio, "alpha_divergence", alpha)
        torch.testing.assert_close(score, dpo.divergence_score(logratio, limit, 0.0), rtol=1e-4, atol=1e-4)


def test_an_unknown_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match="divergence is 'kl': choose one of reverse_kl"):
        dpo.divergence_score(torch.zeros(1), "kl", 0.5)
