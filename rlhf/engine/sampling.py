"""How responses are drawn: the settings, the random numbers of each sample, one token per row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

BLOCK = 256  # tokens per block of the two-level inverse distribution function
BELOW_ONE = 1 - 2**-23


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        num_samples: responses per prompt.
        max_new_tokens: a response that has not ended by then is cut off.
        temperature: logits are divided by it; 0 takes the likeliest token.
        seed: with the prompt and the index of the sample it decides the sample.
        min_new_tokens: stop tokens cannot be drawn before a response has this many tokens, and log-probabilities
            there are those of the other tokens; a stop string ends a response earlier all the same.
        stop_strings: a response ends with the token that makes its text contain one of them.
    """

    num_samples: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0
    min_new_tokens: int = 0
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"sampling is {self}: num_samples and max_new_tokens must be at least 1, temperature at least 0"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}: it must lie between 0 and max_new_tokens "
                f"({self.max_new_tokens})"
            )
        if isinstance(self.stop_strings, str) or not all(isinstance(s, str) and s for s in self.stop_strings):
            raise ValueError(f"stop_strings is {self.stop_strings!r}: give a tuple of strings, none of them empty")


def uniforms(prompt: Sequence[int], index: int, sampling: Sampling) -> torch.Tensor:
    """`[max_new_tokens]` random numbers in [0, 1) that belong to one sample of one prompt."""
    key = f"{sampling.seed}:{index}:{','.join(map(str, prompt))}"
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator)


def batch_seed(seed: int, prompts: Sequence[Sequence[int]]) -> int:
    """A seed of 62 bits for a batch; processes have other prompts, hence other numbers."""
    key = f"{seed}:{';'.join(','.join(map(str, prompt)) for prompt in prompts)}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 2


def draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from softmax(logits / temperature) by inverting its distribution function at `uniform`.

    The inverse is taken in two levels, first over blocks of the vocabulary, then inside one block of each row, so
    that the whole vocabulary is summed once and never accumulated.

    Args:
        logits: `[rows, vocabulary]`.
        uniform: `[rows]` in [0, 1).

    Returns:
        `[rows]` token ids and `[rows]` log-probabilities; at temperature 0 those of the distribution at 1.
    """
    if temperature not in (0, 1):
        logits = logits.float() / temperature
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    greedy = temperature == 0
    drawn = probabilities.argmax(dim=-1, keepdim=True) if greedy else _invert(probabilities, uniform[:, None])
    return drawn.squeeze(-1), probabilities.gather(-1, drawn).log().squeeze(-1)


def _invert(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """`[rows, 1]` index of the first token at which the distribution function exceeds `[rows, 1]` uniform."""
    vocabulary = probabilities.shape[-1]
    whole = vocabulary // BLOCK * BLOCK
    sums = probabilities[:, :whole].unflatten(-1, (-1, BLOCK)).sum(dim=-1)
    if whole < vocabulary:
        sums = torch.cat([sums, probabilities[:, whole:].sum(dim=-1, keepdim=True)], dim=-1)
    # in float64, or rounding decides between neighbours of a large vocabulary, and two machines part ways
    sums = sums.double()
    up_to = sums.cumsum(dim=-1)
    block, target = _first_above(up_to, uniform * up_to[:, -1:])
    target = target - (up_to - sums).gather(-1, block)
    index = block * BLOCK + torch.arange(BLOCK, device=block.device)
    inside = probabilities.gather(-1, index.clamp(max=vocabulary - 1)) * (index < vocabulary)
    return block * BLOCK + _first_above(inside.double().cumsum(dim=-1), target)[0]


def _first_above(cumulative: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[rows, 1]` first index whose `[rows, n]` cumulative sum exceeds the target, and the target as it was used.

    Rounding may put the target outside [0, last sum): it is moved inside, so that what has probability 0 is never
    found.
    """
    target = torch.minimum(target.clamp(min=0), cumulative[:, -1:] * BELOW_ONE)
    return torch.searchsorted(cumulative, target, right=True), target
