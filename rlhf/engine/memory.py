"""How many bytes a training process needs at its peak, part by part, and how many operations a step takes.

Pure arithmetic on the shape of a model and the settings of a run; `rlhf plan` prints it, and a test holds it to the
measured peak of real runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD_TILE_ROWS = 512  # at least the rows whose logits stand at once
FLOAT32 = 4
# Measured on SmolLM2-135M on a CPU, with and without checkpointing, 512 to 3,072 tokens a pass: what a backward pass
# holds at its peak beyond what was kept, in units of what one layer keeps, and what does not grow with anything.
WORKING_LAYERS = 7
FIXED_BYTES = 60e6
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # names of their number in config.json


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with gated feed-forward layers that decide what it costs.

    Attributes:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward layers.
        heads, key_value_heads, head_dim: of attention.
        vocabulary: rows of the embedding.
        tied: whether the output head is the embedding.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape in a transformers `config.json`.

        Raises:
            ValueError: a size is missing, or the model is a mixture of experts: no decoder of this kind.
        """
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        missing = [name for name in names if not isinstance(config.get(name), int)]
        if missing:
            raise ValueError(f"the model's config.json has no {', '.join(missing)}: its memory cannot be computed")
        experts = next((name for name in EXPERTS if isinstance(config.get(name), int) and config[name] > 1), None)
        if experts is not None:
            raise ValueError(
                f"the model's config.json has {experts}: the memory of a mixture of experts is not computed here"
            )
        layers, hidden, intermediate, heads, vocabulary = (config[name] for name in names)
        return cls(
            layers,
            hidden,
            intermediate,
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            vocabulary,
            bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.key_value_heads * self.head_dim

    @property
    def linears(self) -> list[tuple[int, int]]:
        """`(inputs, outputs)` of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        h, q, kv, f = self.hidden, self.query_width, self.key_value_width, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]

    @property
    def layer_weights(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def body_weights(self) -> int:
        """N: weights that every token is multiplied with, without embedding and head."""
        return self.layers * self.layer_weights

    @property
    def head_weights(self) -> int:
        """H: vocabulary x hidden."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        return self.body_weights + self.head_weights * (1 if self.tied else 2)

    def adapter_weights(self, r: int, last_layers: int = 0) -> int:
        """A LoRA adapter on all linear layers, or those of the last decoder layers: r (inputs + outputs) each."""
        return (last_layers or self.layers) * sum(r * (inputs + outputs) for inputs, outputs in self.linears)


def check_last_layers(count: int, num_layers: int | None = None) -> None:
    """Refuse a number of layers that no model has, or not one of `num_layers`.

    Raises:
        ValueError: with what is possible.
    """
    if count < 0:
        raise ValueError(f"lora_last_layers is {count}: it must be at least 0, which is all layers")
    if num_layers is not None and count > num_layers:
        raise ValueError(f"lora_last_layers is {count}: the model has {num_layers} layers; choose at most that")


@dataclass(frozen=True)
class RunShape:
    """What of a run decides its memory and its operations, for one process.

    Attributes:
        stage: reward, dpo or ppo.
        prompts: in one optimiser step of this process.
        samples: responses to each.
        prompt_length, response_length: tokens.
        micro_batch_tokens: tokens of one forward and backward pass; at least one prompt with its responses.
        batch_tokens: tokens of the largest batch where groups differ, whose longest then has the lengths above; 0 where
            they are all alike.
        weight_bytes: of one number of the frozen backbone, and of activations.
        quantised_bytes: of one number of the decoder layers where they are quantised.
        lora_r: rank of the adapters.
        lora_last_layers: decoder layers with adapters, the last ones; 0: all.
        checkpointing: whether activations are computed again in the backward pass.
        merged_copy: whether rollouts read merged weights in a copy.
        rollout_rows: responses decoded side by side.
        shared_value: whether no adapter of its own is the value model: a head on the policy, or none at all.
        members: reward models, trained as an ensemble or scoring as one; 0 where scorers alone score.
        judges: reward models that PPO has outside the score.
        own_reference: whether PPO's reference is an adapter of its own, and not the backbone.
        ppo_epochs: passes over a rollout.
        gpus: processes.
        zero: DeepSpeed's stage, 0, 2 or 3.
    """

    stage: str
    prompts: int = 8
    samples: int = 2
    prompt_length: int = 512
    response_length: int = 256
    micro_batch_tokens: int = 0
    batch_tokens: int = 0
    weight_bytes: int = 2
    quantised_bytes: float | None = None
    lora_r: int = 16
    lora_last_layers: int = 0
    checkpointing: bool = False
    merged_copy: bool = True
    rollout_rows: int = 64
    shared_value: bool = False
    members: int = 1
    judges: int = 0
    own_reference: bool = False
    ppo_epochs: int = 4
    gpus: int = 1
    zero: int = 0

    @property
    def group_tokens(self) -> int:
        """A prompt once and its responses: P + K R."""
        return self.prompt_length + self.samples * self.response_length

    @property
    def whole_tokens(self) -> int:
        """Tokens of a batch in one pass."""
        return self.batch_tokens or self.prompts * self.group_tokens

    @property
    def pass_tokens(self) -> int:
        """Tokens that one pass really holds: whole groups within the budget, at least one.

        Groups of different lengths may fill the budget, so there all of it counts.
        """
        if not self.micro_batch_tokens:
            return self.whole_tokens
        if self.batch_tokens:
            return min(self.batch_tokens, max(self.micro_batch_tokens, self.group_tokens))
        return min(self.prompts, max(1, self.micro_batch_tokens // self.group_tokens)) * self.group_tokens

    @property
    def training_rows(self) -> int:
        """Roles that are computed with gradients in one pass."""
        if self.stage == "reward":
            return self.members
        return 2 if self.stage == "ppo" and not self.shared_value else 1

    @property
    def adapters(self) -> int:
        """Adapters in memory: PPO holds those that stand too, of reward models, judge and reference."""
        return self.training_rows + (self.members + self.judges + self.own_reference if self.stage == "ppo" else 0)


def kept_bytes_per_token(model: ModelShape, run: RunShape) -> float:
    """Bytes that one decoder layer keeps of one token of one row until its backward pass.

    In the type of the model: the inputs of both norms (2h), of q, k and v (h), of the gate and up layers (h), of the
    output projection (the attention's width), four numbers of the feed-forward width (gate, silu(gate), up, and their
    product, which the down layer reads), x A^T of each adapter (r), and queries, outputs, keys and values of attention;
    the last two of a prompt stand beside each of its K responses where K > 1. In float32: one number per norm and, for
    each head, the logarithm of attention's normaliser. Not counted: on a CPU, where segments are short, attention keeps
    its probabilities, up to 255 keys x heads a token (`attention_short`).
    """
    linear = 4 * model.hidden + model.query_width + 4 * model.intermediate + len(model.linears) * run.lora_r
    key_share = 1.0
    if run.samples > 1:
        key_share += run.samples * run.prompt_length / run.group_tokens
    attention = 2 * model.query_width + 2 * model.key_value_width * key_share
    return (linear + attention) * run.weight_bytes + (2 + model.heads) * FLOAT32


def memory_parts(model: ModelShape, run: RunShape) -> dict[str, float]:
    """Peak bytes of one process, by part; without what Python, torch and the device's runtime take themselves.

    ZeRO-2 shares out gradients and optimiser states, ZeRO-3 the frozen weights too, of which each process then holds
    its share and, whole, the layer that is running and the next one. Rollouts and training do not meet: what only one
    of them needs counts once, by the larger.
    """
    share = run.gpus if run.zero >= 2 else 1
    rows, tokens = run.training_rows, run.pass_tokens
    adapter = model.adapter_weights(run.lora_r, run.lora_last_layers)
    body_bytes = run.weight_bytes if run.quantised_bytes is None else run.quantised_bytes
    weights = model.body_weights * body_bytes + (model.weights - model.body_weights) * run.weight_bytes
    parts = {"weights": weights if run.zero < 3 else weights / run.gpus}
    if run.zero == 3:
        parts["gathered layers"] = (2 * model.layer_weights + model.head_weights) * run.weight_bytes
    parts["adapters"] = run.adapters * adapter * FLOAT32
    # gradients, Adam's two moments, and in the pass a copy of the adapters in the type of the model
    parts["gradients, optimiser"] = rows * adapter * (3 * FLOAT32 / share + run.weight_bytes)
    if run.stage == "ppo" and run.merged_copy:
        # embedding and head are the backbone's own, unless that is partitioned
        parts["merged copy"] = (model.weights if run.zero == 3 else model.body_weights) * run.weight_bytes
    parts["activations"] = kept_activations(model, run)
    # the head works in the forward pass and the layers in the backward pass: the larger counts
    working = WORKING_LAYERS * rows * tokens * kept_bytes_per_token(model, run)
    parts["working space"] = max(working, head_tile_bytes(model, run))
    parts["fixed"] = FIXED_BYTES
    if run.stage == "ppo":
        cache = cache_bytes(model, run)
        training = parts["activations"] + parts["working space"]
        parts["key-value cache above training"] = max(0.0, cache - training)
    return parts


def kept_activations(model: ModelShape, run: RunShape) -> float:
    """Bytes that layers with adapters keep for the backward pass; with checkpointing only the input of each."""
    per_layer = model.hidden * run.weight_bytes if run.checkpointing else kept_bytes_per_token(model, run)
    return run.training_rows * run.pass_tokens * (run.lora_last_layers or model.layers) * per_layer


def head_tile_bytes(model: ModelShape, run: RunShape) -> float:
    """Log-probabilities and probabilities of a tile in float32, and the latter in the model's type."""
    if run.stage == "reward":
        return 0.0
    scored = run.pass_tokens * run.samples * run.response_length / run.group_tokens
    return min(scored, HEAD_TILE_ROWS) * model.vocabulary * (2 * FLOAT32 + run.weight_bytes)


def cache_bytes(model: ModelShape, run: RunShape) -> float:
    """Keys and values of the responses decoded side by side, and of each of their prompts once."""
    rows = min(run.rollout_rows, run.prompts * run.samples)
    tokens = rows * run.response_length + rows / run.samples * run.prompt_length
    return 2 * model.key_value_width * model.layers * tokens * run.weight_bytes


def passes_per_step(run: RunShape) -> int:
    """Forward and backward passes of one optimiser step of one process."""
    return -(-run.prompts * run.group_tokens // run.pass_tokens)


def step_operations(model: ModelShape, run: RunShape) -> dict[str, float]:
    """Floating-point operations of one process in one step, by phase; attention's own products are left out.

    With N body weights, H = vocabulary x hidden, T tokens and S response tokens: forward 2 N T and 2 H S; forward and
    backward of adapters on frozen weights 4 N T and 4 H S for a policy, since a frozen weight needs no gradient;
    checkpointing runs the body's forward once more. Layers before the first with an adapter are computed once for all
    rows of a pass, forward alone. A step of PPO is a rollout with all its epochs.
    """
    tokens = run.prompts * run.group_tokens
    scored = run.prompts * run.samples * run.response_length
    body, head = 2 * model.body_weights * tokens, 2 * model.head_weights * scored
    adapted = body * (run.lora_last_layers or model.layers) / model.layers
    train = body + (run.training_rows - 1) * adapted + run.training_rows * (2 if run.checkpointing else 1) * adapted
    if run.stage == "reward":
        return {"update": train}
    if run.stage == "dpo":
        return {"reference": body + head, "update": train + 2 * head}
    return {
        "rollout": body + head,
        "scoring": body + (run.members + run.judges + run.training_rows) * adapted + 2 * head,
        "update": run.ppo_epochs * (train + 2 * head),
    }


def gathered_bytes_per_step(model: ModelShape, run: RunShape) -> float:
    """Bytes that ZeRO-3 brings to each GPU in a step: the weights it does not hold, forward, backward and again.

    A pass gathers every layer twice (forward, backward), three times with checkpointing; a scoring pass once.
    """
    once = model.weights * run.weight_bytes * (run.gpus - 1) / run.gpus
    passes = passes_per_step(run)
    training = passes * (3 if run.checkpointing else 2)
    if run.stage == "ppo":
        return once * (training * run.ppo_epochs + passes)
    return once * (training + passes * (run.stage == "dpo"))
