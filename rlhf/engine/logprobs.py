"""Log-probabilities of response tokens from the output head, in one pass where the head is frozen.

With a frozen head the gradient of log p(y | h) with respect to the hidden state is known in closed form,

    d log p(y) / dh = sum_k (1[k = y] - p_k) (dl_k / dz_k) W_k,   z = h W^T + b,   l = logits(z) / temperature,

and comes out of the same tile of logits as the log-probability itself. Nothing of vocabulary size outlives a
chunk, and the head costs two matrix products where autograd needs three. The entropy H has such a form too,

    dH / dh = -sum_k p_k (log p_k + H) (dl_k / dz_k) W_k,

one product more, taken only where an entropy bonus asks for it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from rlhf.engine.precision import at_least_float32

# Rows of a matrix product. On 2 CPU cores 128 to 512 cost the same within 5 %; fewer read the head more often.
CHUNK_ROWS = 256
# Logits that a CPU turns into probabilities at a time: 2 MB in float32, which its cache holds over the passes.
BLOCK_LOGITS = 2**19


@dataclass(frozen=True)
class LogitForm:
    """What a model makes of h W^T + b before the softmax: `softcap * tanh(scale * z / softcap)`.

    Attributes:
        scale: what z is multiplied by (Cohere, Granite).
        softcap: the bound of Gemma 2 (arXiv 2408.00118); None caps nothing.
    """

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitForm:
        """Read it from a transformers configuration.

        Raises:
            ValueError: a field that should be a number is not.
        """
        text = config.get_text_config()
        fields = ("logit_scale", "lm_head_multiplier", "logits_scaling", "final_logit_softcapping", "logits_soft_cap")
        found = {name: getattr(text, name, None) for name in fields}
        for name, value in found.items():
            if not isinstance(value, (int, float, type(None))):
                raise ValueError(f"{type(text).__name__} has {name}={value!r}, not a number: choose another model")
        scale = (found["logit_scale"] or 1.0) * (found["lm_head_multiplier"] or 1.0) / (found["logits_scaling"] or 1.0)
        return cls(scale, found["final_logit_softcapping"] or found["logits_soft_cap"])


PLAIN = LogitForm()


def head_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    form: LogitForm = PLAIN,
    with_entropy: bool = False,
    entropy_learns: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each target under softmax(logits(hidden W^T + bias) / temperature).

    A head that requires a gradient gets one, by autograd, computing each chunk again in the backward pass.

    Args:
        hidden: `[n, hidden]` last hidden states at the positions that predict the targets.
        weight: `[vocabulary, hidden]` output head.
        target_ids: `[n]` token ids.
        bias: `[vocabulary]` or None.
        temperature: what the logits are divided by: the sampling temperature of the rollout.
        form: what the model does to its logits.
        with_entropy: whether to measure the entropy of the softmax too; changes no bit of the log-probabilities.
        entropy_learns: whether that entropy is differentiable; one matrix product more.

    Returns:
        logprobs: `[n]` in nats, at least float32, differentiable in `hidden` and in a head that learns.
        entropy: `[n]` in nats, between 0 and ln(vocabulary); not differentiable unless it learns. None where it was
            not asked for.

    Raises:
        ValueError: temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: log-probabilities need a temperature above 0")
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    if learns and torch.is_grad_enabled():
        return _by_autograd(hidden, weight, bias, target_ids, temperature, form, with_entropy, entropy_learns)
    logprobs, entropy = _FrozenHead.apply(
        hidden, weight, bias, target_ids, temperature, form, with_entropy, with_entropy and entropy_learns
    )
    return logprobs, entropy if with_entropy else None


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target_ids: torch.Tensor,
        temperature: float,
        form: LogitForm,
        with_entropy: bool,
        entropy_learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_rows = hidden.shape[0]
        logprobs = hidden.new_empty(num_rows, dtype=at_least_float32(hidden.dtype))
        entropy = torch.empty_like(logprobs) if with_entropy else logprobs.new_empty(0)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        entropy_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] and entropy_learns else None
        block = max(1, BLOCK_LOGITS // len(weight)) if hidden.device.type == "cpu" else CHUNK_ROWS
        for start in range(0, num_rows, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            tile, targets = F.linear(hidden[rows], weight, bias), target_ids[rows]
            entropy_tile = None if entropy_gradient is None else torch.empty_like(tile)
            slopes = []
            for logits, ids, lp, h, eg in zip(
                tile.split(block),
                targets.split(block),
                logprobs[rows].split(block),
                entropy[rows].split(block) if with_entropy else itertools.repeat(None),
                itertools.repeat(None) if entropy_tile is None else entropy_tile.split(block),
                strict=False,
            ):
                slopes.append(_read_block(logits, ids, lp, h, eg, temperature, form, gradient is not None))
            if gradient is not None:
                own = weight[targets] * torch.cat(slopes)[:, None].to(weight.dtype) if form.softcap else weight[targets]
                gradient[rows] = (own - tile @ weight) * (form.scale / temperature)
            if entropy_gradient is not None and entropy_tile is not None:
                entropy_gradient[rows] = entropy_tile @ weight * (form.scale / temperature)
        ctx.save_for_backward(gradient, entropy_gradient)
        if not entropy_learns:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: torch.Tensor, grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, entropy_gradient = ctx.saved_tensors
        total = gradient * grad_logprobs[:, None].to(gradient.dtype)
        if entropy_gradient is not None:
            total = total + entropy_gradient * grad_entropy[:, None].to(gradient.dtype)
        return total, None, None, None, None, None, None, None


def _read_block(
    tile: torch.Tensor,
    target_ids: torch.Tensor,
    logprobs: torch.Tensor,
    entropy: torch.Tensor | None,
    entropy_tile: torch.Tensor | None,
    temperature: float,
    form: LogitForm,
    with_gradient: bool,
) -> torch.Tensor:
    """Read a few rows of `[rows, vocabulary]` products z; with_gradient leaves p_k dl_k/dz_k in their place.

    Writes `[rows]` log-probabilities and entropies, into `entropy_tile` dH/dz_k, and returns the slopes dl_y/dz_y of
    the targets, all up to scale / temperature.
    """
    logits, slope = _shaped(tile.to(logprobs.dtype), temperature, form)
    top = logits.amax(dim=-1, keepdim=True)
    probabilities = logits.softmax(dim=-1)
    # the most probable token has p = 1 / sum_k exp(l_k - top): less the logarithm of this sum, without another pass
    log_total = -probabilities.amax(dim=-1, keepdim=True).log()
    logprobs.copy_((logits.gather(-1, target_ids[:, None]) - top - log_total).squeeze(-1))
    if entropy is not None:
        # not by way of logsumexp: the difference of two large numbers makes small entropies negative
        logits.sub_(top).sub_(log_total)
        if entropy_tile is None:
            entropy.copy_(-logits.mul_(probabilities).sum(dim=-1))
        else:
            entropy.copy_(-(logits * probabilities).sum(dim=-1))
            entropy_slope = logits.add_(entropy[:, None]).mul_(probabilities).neg_()
            entropy_tile.copy_(entropy_slope if slope is None else entropy_slope.mul_(slope))
    if with_gradient:
        tile.copy_(probabilities if slope is None else probabilities.mul_(slope))
    return torch.ones_like(logprobs) if slope is None else slope.gather(-1, target_ids[:, None]).squeeze(-1)


def _shaped(z: torch.Tensor, temperature: float, form: LogitForm) -> tuple[torch.Tensor, torch.Tensor | None]:
    """In place: what the softmax reads, and the slope 1 - tanh^2 of the cap where there is one."""
    slope = None
    if form.scale != 1:
        z *= form.scale
    if form.softcap is not None:
        z.div_(form.softcap).tanh_()
        slope = 1 - z.square()
        z *= form.softcap
    if temperature != 1:
        z /= temperature
    return z, slope


def _by_autograd(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    target_ids: torch.Tensor,
    temperature: float,
    form: LogitForm,
    with_entropy: bool,
    entropy_learns: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    def chunk(rows: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(rows, weight, bias).to(at_least_float32(rows.dtype)) * form.scale
        if form.softcap is not None:
            logits = form.softcap * torch.tanh(logits / form.softcap)
        log_probabilities = (logits / temperature).log_softmax(dim=-1)
        measured = log_probabilities if entropy_learns else log_probabilities.detach()
        entropy = -(measured.exp() * measured).sum(dim=-1) if with_entropy else measured.new_empty(0)
        return log_probabilities.gather(-1, ids[:, None]).squeeze(-1), entropy

    pieces = [
        checkpoint(chunk, rows, ids, use_reentrant=False)
        for rows, ids in zip(hidden.split(CHUNK_ROWS), target_ids.split(CHUNK_ROWS), strict=True)
    ]
    logprobs, entropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return logprobs, entropy if with_entropy else None
