"""Decoding several samples per prompt, one token a step.

A prompt is computed once, and its keys and values are kept once: the K samples of a prompt are K queries against
them. All sequences of a step form one packed row, `[1, tokens]`, so prompts are not padded. Any decoder built on
transformers' attention interface works, since the state reaches its layers as a keyword; others decode through
transformers' own cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PreTrainedModel

from rlhf.engine.key_value_cache import DecodingState, LayerCache, bias

logger = logging.getLogger(__name__)
IMPLEMENTATION = "shared_prompt_decoding"


class Decoder(Protocol):
    """Reads prompts, then one token of every row a step."""

    def read_prompts(self) -> torch.Tensor:
        """`[rows, vocabulary]` logits of the first token; rows of one prompt stand side by side."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[rows, vocabulary]` logits after the `[rows]` tokens just drawn."""

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows: row i of the next step is row `order[i]` of this one."""


class KeywordLostError(RuntimeError):
    """The model does not hand keywords on to its attention layers."""


@dataclass(frozen=True)
class _Scoring:
    """How a layer turns products of queries and keys into scores; see `decoding_attention`."""

    scaling: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None

    def weights(self, scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        """Softmax over the last dimension with one more score from `sinks` that is left out after.

        Scores and weights are in the type of the model, which transformers' eager attention does too; widening the
        cache at every step would cost more than the step. PPO scores a rollout anew, in float32 scores.
        """
        if sinks is None:
            return scores.softmax(dim=-1)
        with_sinks = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
        return with_sinks.softmax(dim=-1)[..., :-1]

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """`[..., n, m]` scores of `[..., n, head_dim]` scaled queries, with a bias that hides some."""
        scores = queries @ keys.transpose(-1, -2)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores if hidden is None else scores + hidden


def decoding_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    decoding: DecodingState | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row of prompts, or of one new token of every row.

    Args:
        query: `[1, heads, tokens, head_dim]`; `tokens` are those of all prompts, or one of each row.
        key: `[1, key_value_heads, tokens, head_dim]`.
        value: `[1, key_value_heads, tokens, head_dim]`.
        decoding: the state; required.
        sliding_window: how many tokens a token sees, itself included.
        softcap: scores are softcap * tanh(score / softcap) (Gemma 2, arXiv 2408.00118).
        s_aux: `[heads]` attention sinks: one more score per head that takes weight from the others.

    Returns:
        `[1, tokens, heads, head_dim]` and None in place of attention weights.

    Raises:
        KeywordLostError: `decoding` did not arrive.
    """
    if decoding is None:
        raise KeywordLostError(type(module).__name__)
    scoring = _Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    layer: Any = module.layer_idx
    if decoding.step < 0:
        cache = decoding.add_layer(layer, key[0], value[0])
        return _read_prompts(cache, query[0], key[0], value[0], decoding.lengths, scoring)[None], None
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return _read_tokens(decoding.layers[layer], q, k, v, decoding, scoring)[None], None


def _read_prompts(
    cache: LayerCache,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scoring: _Scoring,
) -> torch.Tensor:
    """Each prompt by itself, `[heads, tokens, head_dim]` to `[tokens, heads, head_dim]`; fills the cache."""
    outputs = []
    parts = (tensor.split(lengths, dim=1) for tensor in (query, key, value))
    for index, (q, k, v) in enumerate(zip(*parts, strict=True)):
        cache.prompt_keys[index, :, : k.shape[1]] = k
        cache.prompt_values[index, :, : v.shape[1]] = v
        shared = q.shape[0] // k.shape[0]
        outputs.append(_causal(q, k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0), scoring))
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: _Scoring) -> torch.Tensor:
    length, window = query.shape[1], scoring.window
    if scoring.softcap is None and scoring.sinks is None and (window is None or length <= window):
        parts = (query[None], key[None], value[None])
        return F.scaled_dot_product_attention(*parts, is_causal=True, scale=scoring.scaling)[0]
    visible = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if window is not None:
        visible = visible.triu(1 - window)
    scores = scoring.scores(query * scoring.scaling, key, bias(~visible, query.dtype))
    sinks = None if scoring.sinks is None else scoring.sinks[:, None, None]
    return scoring.weights(scores, sinks) @ value


def _read_tokens(
    cache: LayerCache,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: DecodingState,
    scoring: _Scoring,
) -> torch.Tensor:
    """One token of every row, `[rows, heads, head_dim]`: one softmax over its prompt and its own tokens."""
    rows, key_heads = query.shape[0], key.shape[1]
    keys, values = cache.keys[:rows], cache.values[:rows]
    if state.fixed:
        keys.index_copy_(2, state.step_index, key[:, :, None])
        values.index_copy_(2, state.step_index, value[:, :, None])
    else:
        keys[:, :, state.step] = key
        values[:, :, state.step] = value
    keys, values = keys[:, :, : state.own_length], values[:, :, : state.own_length]

    # query heads that share a key head are further queries to it
    queries = (query * scoring.scaling).unflatten(1, (key_heads, -1))
    hidden = state.prompt_bias(scoring.window, query.dtype)
    to_prompt = state.to_rows(scoring.scores(state.to_grid(queries), cache.prompt_keys, hidden))
    to_own = scoring.scores(queries, keys, state.own_bias(scoring.window, query.dtype))
    sinks = None if scoring.sinks is None else scoring.sinks.view(key_heads, -1, 1)
    weights = scoring.weights(torch.cat([to_prompt, to_own], dim=-1), sinks)
    prompt_weights, own_weights = weights.split([to_prompt.shape[-1], to_own.shape[-1]], dim=-1)
    from_prompt = state.to_rows(state.to_grid(prompt_weights) @ cache.prompt_values)
    return (from_prompt + own_weights @ values).flatten(1, 2)


class SharedPromptDecoder:
    """Decodes with `decoding_attention`; to be used inside `attention_of(model, IMPLEMENTATION)`.

    Args:
        model: a decoder built on transformers' attention interface.
        prompts: token ids of each.
        num_samples: rows per prompt.
        max_new_tokens: tokens to make room for.
        fixed: see `DecodingState`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        max_new_tokens: int,
        *,
        fixed: bool = False,
    ):
        self.model = model
        self.prompts = prompts
        self.num_samples = num_samples
        lengths = [len(prompt) for prompt in prompts]
        self.state = DecodingState(lengths, num_samples, max_new_tokens, fixed=fixed, device=model.device)

    def read_prompts(self) -> torch.Tensor:
        device = self.model.device
        ids = torch.tensor([token for prompt in self.prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(len(prompt), device=device) for prompt in self.prompts])
        last = self.state.prompt_lengths.cumsum(0) - 1
        return self._forward(ids, positions, last).repeat_interleave(self.num_samples, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.state.advance()
        return self._forward(tokens, self.state.positions, 0)

    def keep(self, order: Sequence[int]) -> None:
        self.state.keep(order)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor | int) -> torch.Tensor:
        output = self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            decoding=self.state,
            use_cache=False,
            logits_to_keep=kept,
        )
        return output.logits[0]


class CacheDecoder:
    """Decodes with transformers' own cache: any causal language model, prompts padded and repeated for each sample."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_samples: int, pad_id: int):
        self.model = model
        self.num_samples = num_samples
        longest = max(len(prompt) for prompt in prompts)
        padded = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=model.device).repeat_interleave(num_samples, 0)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        mask = torch.arange(longest, device=model.device) >= longest - lengths[:, None]
        self.mask = mask.long().repeat_interleave(num_samples, 0)
        self.cache: Any = None

    def read_prompts(self) -> torch.Tensor:
        return self._forward(self.ids, (self.mask.cumsum(dim=1) - 1).clamp(min=0))

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return self._forward(tokens[:, None], self.mask.sum(dim=1, keepdim=True) - 1)

    def keep(self, order: Sequence[int]) -> None:
        index = torch.tensor(order, device=self.mask.device)
        self.mask = self.mask[index]
        self.cache.reorder_cache(index)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        return output.logits[:, -1]


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether the model can be decoded with `decoding_attention`; if not, says so in the log."""
    AttentionInterface.register(IMPLEMENTATION, decoding_attention)
    layer_types = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    works = not model._is_stateful and layer_types <= {"full_attention", "sliding_attention"}
    if works:
        try:
            with attention_of(model, IMPLEMENTATION), torch.no_grad():
                works = model.config._attn_implementation == IMPLEMENTATION
                if works:
                    SharedPromptDecoder(model, [[0]], 1, 1).read_prompts()
        except KeywordLostError:
            works = False
    if not works:
        logger.info("%s does not share prompts between samples: decoded with its own cache", type(model).__name__)
    return works


@contextmanager
def attention_of(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let the model attend by `implementation` inside the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
