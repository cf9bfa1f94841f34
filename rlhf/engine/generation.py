"""Sampling from the policy: merged weights, one prefill per prompt, finished rows dropped.

The sampler runs on a copy of the backbone into which the policy's adapter is merged, because merging into and
out of a bfloat16 backbone in place would drift it. Weights that no adapter touches are shared with the
backbone, not copied.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from rlhf.engine.backbone import Backbone, gathered

COMPACT_SHARE = 0.25  # rows are dropped from the cache once this share of them has finished


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        num_samples: responses per prompt.
        max_new_tokens: a response that has not ended by then is cut off.
        temperature: logits are divided by it; 0 takes the likeliest token.
        seed: with the prompt and the index of the sample it decides the sample.
    """

    num_samples: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"sampling is {self}: num_samples and max_new_tokens must be at least 1, temperature at least 0"
            )


@dataclass(frozen=True)
class Sample:
    """One sampled response.

    Attributes:
        token_ids: the response, ending with a stop token where it finished.
        logprobs: for each token its log-probability under the sampler, in nats.
        finished: whether it ended by itself.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool


class Sampler:
    """Samples responses from a plain causal language model with a key-value cache.

    Args:
        model: the model that is sampled from.
        stop_ids: tokens that end a response.
        pad_id: fills the left of shorter prompts; masked out.
        max_rows: how many sequences are decoded side by side.
    """

    def __init__(self, model: PreTrainedModel, *, stop_ids: set[int], pad_id: int, max_rows: int = 64):
        self.model = model.eval()
        self.stop_ids = torch.tensor(sorted(stop_ids))
        self.pad_id = pad_id
        self.max_rows = max_rows

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, progress: str | None = None
    ) -> list[list[Sample]]:
        """Sample `num_samples` responses to each prompt.

        A sample is decided by its prompt, its index and the seed alone, whatever else is in the batch, up to the
        rounding of the logits.

        Args:
            prompts: token ids of each prompt.
            progress: the label of a progress bar; None shows none.

        Returns:
            For each prompt, in the order given, its samples.
        """
        results: list[list[Sample]] = [[] for _ in prompts]
        prompts_at_once = max(1, self.max_rows // sampling.num_samples)
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with tqdm(total=len(prompts), desc=progress, unit="prompt", disable=progress is None) as bar:
            for start in range(0, len(by_length), prompts_at_once):
                chosen = by_length[start : start + prompts_at_once]
                decoded = self._decode([prompts[index] for index in chosen], sampling)
                for index in chosen:
                    results[index] = [next(decoded) for _ in range(sampling.num_samples)]
                bar.update(len(chosen))
        return results

    def _decode(self, prompts: list[Sequence[int]], sampling: Sampling) -> Iterator[Sample]:
        device, num_samples = self.model.device, sampling.num_samples
        num_rows = len(prompts) * num_samples
        uniforms = torch.stack([_uniforms(prompt, k, sampling) for prompt in prompts for k in range(num_samples)])
        uniforms = uniforms.to(device)
        tokens = torch.zeros(num_rows, sampling.max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(num_rows, sampling.max_new_tokens, device=device)
        lengths = torch.full((num_rows,), sampling.max_new_tokens, device=device)
        finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
        stop_ids = self.stop_ids.to(device)

        # 1. the prompts, once each; then their cache serves every sample
        logits, cache, mask = self._prefill(prompts)
        cache.batch_repeat_interleave(num_samples)
        logits, mask = logits.repeat_interleave(num_samples, 0), mask.repeat_interleave(num_samples, 0)
        rows = torch.arange(num_rows, device=device)  # which sample each row of the batch belongs to
        for step in range(sampling.max_new_tokens):
            # 2. draw one token per row
            drawn, drawn_logprobs = _draw(logits, uniforms[rows, step], sampling.temperature)
            live = ~finished[rows]
            tokens[rows[live], step] = drawn[live]
            logprobs[rows[live], step] = drawn_logprobs[live]
            ended = live & torch.isin(drawn, stop_ids)
            lengths[rows[ended]] = step + 1
            finished[rows[ended]] = True
            if step + 1 == sampling.max_new_tokens or bool(finished.all()):
                break
            # 3. drop rows that have ended, then one step for the others
            live = ~finished[rows]
            if live.float().mean() <= 1 - COMPACT_SHARE:
                keep = live.nonzero().squeeze(-1)
                rows, drawn, mask = rows[keep], drawn[keep], mask[keep]
                cache.batch_select_indices(keep)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            output = self.model(
                input_ids=drawn[:, None],
                attention_mask=mask,
                position_ids=mask.sum(dim=1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1]
        for row in range(num_rows):
            length = int(lengths[row])
            yield Sample(tokens[row, :length].tolist(), logprobs[row, :length].tolist(), bool(finished[row]))

    def _prefill(self, prompts: list[Sequence[int]]) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
        longest = max(len(prompt) for prompt in prompts)
        padded = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.model.device)
        mask = (torch.arange(longest, device=lengths.device) >= longest - lengths[:, None]).long()
        output = self.model(
            input_ids=torch.tensor(padded, device=lengths.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1], output.past_key_values, mask


def _uniforms(prompt: Sequence[int], index: int, sampling: Sampling) -> torch.Tensor:
    """`[max_new_tokens]` random numbers in [0, 1) that belong to one sample of one prompt."""
    key = f"{sampling.seed}:{index}:{','.join(map(str, prompt))}"
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator)


def _draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from softmax(logits / temperature) by inverting its distribution function at `uniform`.

    Args:
        logits: `[rows, vocabulary]`.
        uniform: `[rows]` in [0, 1).

    Returns:
        `[rows]` token ids and `[rows]` log-probabilities; at temperature 0 those of the distribution at 1.
    """
    log_probabilities = (logits.float() / (temperature or 1.0)).log_softmax(dim=-1)
    if temperature == 0:
        drawn = log_probabilities.argmax(dim=-1)
    else:
        cumulative = log_probabilities.exp().cumsum(dim=-1)
        # scaled by the last entry, so that rounding of the sum never points past the vocabulary
        drawn = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(-1)
        drawn = drawn.clamp(max=logits.shape[-1] - 1)
    return drawn, log_probabilities.gather(-1, drawn[:, None]).squeeze(-1)


class MergedCopy:
    """A plain model with one adapter of a backbone merged into it.

    Make it before DeepSpeed takes the backbone, call `sync` after each update of the adapter.

    Args:
        backbone: whose adapter is followed.
        adapter: its name.
    """

    def __init__(self, backbone: Backbone, adapter: str):
        self.backbone = backbone
        self.adapter = adapter
        self.model = _plain_copy(backbone, adapter)
        self.sync()

    @torch.no_grad()
    def sync(self) -> None:
        """Write base + scaling * B A into the copy, added in float32 and cast once."""
        for name, layer in self.backbone.lora_layers().items():
            if self.adapter not in layer.lora_A:
                continue
            base, a, b = layer.base_layer.weight, layer.lora_A[self.adapter].weight, layer.lora_B[self.adapter].weight
            with gathered([base, a, b]):
                added = (b @ a) * layer.scaling[self.adapter]
                merged = base.to(a.dtype) + (added.T if layer.fan_in_fan_out else added)  # Conv1D keeps W^T
                self.model.get_submodule(name).weight.copy_(merged)


def _plain_copy(backbone: Backbone, adapter: str) -> PreTrainedModel:
    """A model of the same class; touched weights get storage of their own, all others are shared."""
    source = backbone.model
    config = copy.deepcopy(source.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        plain = type(source)(config)
    layers = backbone.lora_layers()
    tensors = dict(source.named_parameters(remove_duplicate=False)) | dict(source.named_buffers())
    for name, module in plain.named_modules():
        source_name = f"{name}.base_layer" if name in layers else name
        own = name in layers and adapter in layers[name].lora_A
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            original = tensors[f"{source_name}.{key}" if source_name else key]
            with gathered([original]):
                # what ZeRO-3 has partitioned is whole inside this block only
                keep = hasattr(original, "ds_id") or (own and key == "weight")
                tensor = original.detach().clone() if keep else original.detach()
            if isinstance(value, nn.Parameter):
                module.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
            else:
                module.register_buffer(key, tensor, persistent=key not in module._non_persistent_buffers_set)
    plain.tie_weights()
    if source.generation_config is not None:
        plain.generation_config = copy.deepcopy(source.generation_config)
    return plain.eval()
