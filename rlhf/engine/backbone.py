"""One frozen backbone that plays many roles.

Policy, value model and reward model are LoRA adapters (Hu et al., arXiv 2106.09685) with small heads on one
frozen causal language model; the reference is the backbone with no adapter. A forward pass takes a packed row
once per role: the batch dimension *is* the role. Layers before the first with an adapter say the same to all roles,
so they are computed once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

from rlhf.engine import attention
from rlhf.engine.attention import prefix_layout
from rlhf.engine.logprobs import LogitForm, head_logprobs
from rlhf.engine.lora_layer import is_linear_adapter, route_by_role
from rlhf.engine.norms import fuse_norms
from rlhf.engine.packing import PackedBatch, unshare
from rlhf.engine.precision import at_least_float32
from rlhf.engine.quantization import compute_in_full, loading_config

logger = logging.getLogger(__name__)

ROWS_FIXED = {"gpt_bigcode"}  # models that give their output the shape of their input


@dataclass(frozen=True)
class Role:
    """What one row of a forward pass computes.

    Attributes:
        name: the key of its output.
        adapter: the adapter it reads through; None is the bare backbone.
        logprobs: whether to compute log-probabilities of the response tokens.
        entropy: whether to measure the entropy beside them, a pass over the vocabulary more.
        entropy_learns: whether that entropy is differentiable, a product with the output head more.
        value_head: head read at every position that predicts a response token.
        score_head: head read at the last token of every response.
    """

    name: str
    adapter: str | None = None
    logprobs: bool = False
    entropy: bool = False
    entropy_learns: bool = False
    value_head: str | None = None
    score_head: str | None = None


@dataclass
class RoleOutput:
    """What one role says of a batch; what was not asked for is None.

    Attributes:
        logprobs: `[response_tokens]` in nats.
        entropy: `[response_tokens]` in nats, not differentiable unless the role says so.
        values: `[response_tokens]`.
        scores: `[responses]`.
    """

    logprobs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None
    scores: torch.Tensor | None = None


REFERENCE = Role("reference", logprobs=True)
FROZEN_REFERENCE = Role("reference", adapter="reference", logprobs=True)
POLICY = Role("policy", adapter="policy", logprobs=True)
POLICY_WITH_VALUE = Role("policy", adapter="policy", logprobs=True, value_head="value")
VALUE = Role("value", adapter="value", value_head="value")
REWARD = Role("reward", adapter="reward", score_head="reward")


def reward_roles(num_members: int) -> list[Role]:
    """The roles of an ensemble of reward models: `reward`, `reward_2`, ..., adapters and heads named alike."""
    names = ["reward", *(f"reward_{number}" for number in range(2, num_members + 1))][:num_members]
    return [Role(name, adapter=name, score_head=name) for name in names]


class ScoreHead(nn.Module):
    """A linear map from a hidden state to one number, kept in float32 or better.

    The output is `(w . h + b) * scale + shift`; scale and shift are buffers that normalise a trained reward model.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, hidden_size: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("scale", torch.ones((), dtype=dtype))
        self.register_buffer("shift", torch.zeros((), dtype=dtype))

    @torch.no_grad()
    def normalise(self, mean: float, deviation: float) -> None:
        """Make outputs whose mean and deviation are these have mean 0 and deviation 1."""
        self.shift.copy_((self.shift - mean) / deviation)
        self.scale.copy_(self.scale / deviation)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden]` to `[n]`."""
        return self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1) * self.scale + self.shift


class Backbone(nn.Module):
    """A frozen causal language model with adapters, heads and a forward over roles."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.logit_form = LogitForm.of(model.config)
        self.shares_prompts = _share_prompts(model)
        model.requires_grad_(False)
        _switch_dropout_off(model)
        fuse_norms(model)
        self.longest_sequence = _longest_sequence(model)
        self.model = model
        self.heads = nn.ModuleDict()
        self.adapter_configs: dict[str, LoraConfig] = {}
        self._adapters_by_row: list[str | None] = []
        self._first_layers: dict[str, int] = {}
        self._shared_layers = 0
        for index, layer in enumerate(decoder_layers(model)):
            layer.register_forward_pre_hook(functools.partial(self._one_row_each, index), with_kwargs=True)

    @classmethod
    def load(cls, path: str, *, dtype: torch.dtype = torch.bfloat16, quantization: str = "none") -> Backbone:
        """Load a backbone from a folder of safetensors; no code of the model's author is run.

        Raises:
            ValueError: `quantization`, int8 or nf4, cannot be had here.
        """
        return cls(load_causal_lm(path, dtype=dtype, quantization=quantization))

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def add_adapter(self, name: str, config: LoraConfig) -> None:
        """Add a LoRA adapter whose output is zero until it is trained (B = 0).

        Raises:
            ValueError: the name is taken, or the adapter would sit on a layer that is not routed by role.
        """
        if name in self.adapter_configs:
            raise ValueError(f"adapter {name!r} is there already: {sorted(self.adapter_configs)}")
        with _quiet_injection():
            inject_adapter_in_model(config, self.model, adapter_name=name)
        _refuse_unrouted_layers(self.model)
        self.adapter_configs[name] = config
        self.model.requires_grad_(False)
        for layer in self.lora_layers().values():
            if name in layer.lora_A:
                route_by_role(layer, name, self._adapters_by_row)
        self._first_layers[name] = _first_layer_with(self.model, name)

    def add_head(self, name: str) -> ScoreHead:
        """Add a head that gives zero until it is trained."""
        hidden_size = self.config.get_text_config().hidden_size
        head = ScoreHead(hidden_size, at_least_float32(self.dtype)).to(self.device)
        self.heads[name] = head
        return head

    def head(self, name: str) -> ScoreHead:
        """The head of that name."""
        head = self.heads[name]
        assert isinstance(head, ScoreHead)
        return head

    def lora_layers(self) -> dict[str, lora.Linear]:
        """The layers that carry adapters, by their name in the language model, in a fixed order."""
        return {name: module for name, module in self.model.named_modules() if is_linear_adapter(module)}

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Parameters of one adapter under the names that PEFT gives them on disk."""
        parameters = {}
        for layer_name, layer in self.lora_layers().items():
            if name in layer.lora_A:
                prefix = f"base_model.model.{layer_name}"
                parameters[f"{prefix}.lora_A.weight"] = layer.lora_A[name].weight
                parameters[f"{prefix}.lora_B.weight"] = layer.lora_B[name].weight
        return parameters

    def train_only(self, *, adapters: Sequence[str] = (), heads: Sequence[str] = ()) -> None:
        """Let exactly these adapters and heads receive gradients."""
        self.requires_grad_(False)
        for name in adapters:
            for parameter in self.adapter_parameters(name).values():
                parameter.requires_grad_(True)
        for name in heads:
            self.heads[name].linear.requires_grad_(True)

    def forward(self, batch: PackedBatch, roles: Sequence[Role], *, temperature: float = 1.0) -> dict[str, RoleOutput]:
        """One pass over a packed row for several roles at once.

        The roles stand until the next forward: run backward before the next call, since gradient checkpointing
        computes the layers again.

        Args:
            batch: the packed row.
            roles: one row of the pass each.
            temperature: what logits are divided by; the sampling temperature of a rollout.

        Returns:
            The output of each role by its name.

        Raises:
            ValueError: a sequence is too long for a rotary embedding that depends on the length.
        """
        if self.longest_sequence is not None and int(batch.position_ids.max()) >= self.longest_sequence:
            raise ValueError(
                f"a sequence of {int(batch.position_ids.max()) + 1} tokens: from {self.longest_sequence} on this model "
                "chooses its rotary embedding by the longest sequence of a batch, so that one response would change "
                "another; lower max_prompt_length or max_response_length"
            )
        keywords: dict[str, Any] = {}
        if self.shares_prompts:
            layout = prefix_layout(batch, num_rows=sorted({1, len(roles)}), dtype=self.dtype)
            input_ids, keywords = batch.input_ids[None], {"position_ids": batch.position_ids[None]}
            keywords["prefix_layout"] = layout
        else:
            input_ids, batch = unshare(batch)
        self._adapters_by_row[:] = [role.adapter for role in roles for _ in input_ids]
        self._shared_layers = self._leading_layers_without_adapter(roles) if self.shares_prompts else 0
        if not self._shared_layers:
            input_ids = input_ids.repeat(len(roles), 1)
        output = self.model.base_model(input_ids=input_ids, use_cache=False, **keywords)
        hidden = output.last_hidden_state.unflatten(0, (len(roles), -1)).flatten(1, 2)
        return {role.name: self._read(hidden[row], role, batch, temperature) for row, role in enumerate(roles)}

    def _leading_layers_without_adapter(self, roles: Sequence[Role]) -> int:
        """Layers that say the same to all of these roles, counted from the embedding."""
        return min((self._first_layers[role.adapter] for role in roles if role.adapter is not None), default=0)

    def _one_row_each(self, index: int, layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Hand the row that all roles shared so far to each of them, at the first layer with an adapter."""
        if index == 0 or index != self._shared_layers:
            return None
        rows = len(self._adapters_by_row)
        if args:
            return (args[0].repeat(rows, 1, 1), *args[1:]), keywords
        return args, {**keywords, "hidden_states": keywords["hidden_states"].repeat(rows, 1, 1)}

    def _read(self, hidden: torch.Tensor, role: Role, batch: PackedBatch, temperature: float) -> RoleOutput:
        output = RoleOutput()
        if role.logprobs:
            head = self.model.get_output_embeddings()
            with gathered([head.weight]):
                output.logprobs, output.entropy = head_logprobs(
                    hidden[batch.predict_index],
                    head.weight,
                    batch.target_ids,
                    bias=getattr(head, "bias", None),
                    temperature=temperature,
                    form=self.logit_form,
                    with_entropy=role.entropy,
                    entropy_learns=role.entropy_learns,
                )
        if role.value_head is not None:
            output.values = self.heads[role.value_head](hidden[batch.predict_index])
        if role.score_head is not None:
            output.scores = self.heads[role.score_head](hidden[batch.last_index])
        return output

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Compute activations again in the backward pass instead of keeping them; called by the Trainer."""
        settings = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings, **kwargs)
        if not settings["use_reentrant"]:
            # transformers asks for it on behalf of reentrant checkpointing; layers before the first adapter would be
            # computed again and walked back through, for nothing
            self.model.disable_input_require_grads()


def load_causal_lm(path: str, *, dtype: torch.dtype, quantization: str = "none") -> PreTrainedModel:
    """Load a causal language model from a local folder of safetensors; under ZeRO-3 every process must call it."""
    with _partitioned_in(dtype):
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            quantization_config=loading_config(quantization, dtype),
        )
    compute_in_full(model)
    return model


@contextlib.contextmanager
def _partitioned_in(dtype: torch.dtype) -> Iterator[None]:
    """Make ZeRO-3, which partitions a model while it is loaded, keep bfloat16 instead of casting to float32.

    DeepSpeed takes the type from its own setting, which must be off for the training: it would cast adapters too.
    """
    config = deepspeed_config() if is_deepspeed_zero3_enabled() else None
    if config is None or dtype == torch.float32:
        yield
        return
    if dtype != torch.bfloat16:
        raise ValueError(f"dtype is {dtype}: under DeepSpeed ZeRO-3 choose bfloat16 or float32")
    before = config.get("bf16", {"enabled": False})
    config["bf16"] = {"enabled": True}
    try:
        yield
    finally:
        config["bf16"] = before


@contextlib.contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, write: bool = False) -> Iterator[None]:
    """Make parameters whole that DeepSpeed ZeRO-3 has partitioned; does nothing to others.

    Args:
        parameters: what is read inside the block.
        write: whether process 0 changes them inside, to be sent to all processes at the end.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not write:  # a module that runs at the moment holds its parameters whole; they are DeepSpeed's to free
        partitioned = [parameter for parameter in partitioned if not _is_whole(parameter)]
    if not partitioned:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if write else None):
        yield


def _is_whole(parameter: nn.Parameter) -> bool:
    return parameter.numel() == getattr(parameter, "ds_numel", None)


def _switch_dropout_off(model: nn.Module) -> None:
    # by p = 0 and not by mode: the Trainer calls train() before every step
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):  # attention_dropout, residual_dropout, layerdrop
                setattr(module, name, 0.0)


def _share_prompts(model: PreTrainedModel) -> bool:
    """Give a model the attention that shares prompts; False, with a line in the log, if it cannot take it."""
    own = model.config._attn_implementation
    attention.register()
    model.set_attn_implementation(attention.IMPLEMENTATION)
    layer_types = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    others = sorted(layer_types - {"full_attention", "sliding_attention"})
    if model.config._attn_implementation != attention.IMPLEMENTATION:
        reason = "does not use transformers' attention interface"
    elif others or model._is_stateful:
        # only attention can keep the responses to a shared prompt apart
        reason = f"mixes tokens by {', '.join(others) or 'a recurrent state'} too"
    else:
        return True
    model.set_attn_implementation(own)
    logger.warning("%s %s: each response is read with a prompt of its own", type(model).__name__, reason)
    return False


def _longest_sequence(model: PreTrainedModel) -> int | None:
    """Tokens up to which a rotary embedding that depends on the length stays one; None where none does."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    bounds = [
        part.get("original_max_position_embeddings") or config.max_position_embeddings
        for part in by_layer
        if part.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(bounds, default=None)


def decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The layers that a model runs one after the other; empty where they cannot be told, or rows must stay as many."""
    if model.config.model_type in ROWS_FIXED:
        return []
    name = layer_list(model)
    return [] if name is None else list(model.get_submodule(name))


def layer_list(model: PreTrainedModel) -> str | None:
    """The name of the list of a language model's layers; None where there is no list of as many as it has."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    of_text = set(model.get_decoder().modules())  # what sees pictures or hears may have as many
    lists = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList))
    return next((name for name, layers in lists if len(layers) == count and layers in of_text), None)


def _first_layer_with(model: PreTrainedModel, adapter: str) -> int:
    """The index of the first decoder layer that carries an adapter; 0 where it also sits elsewhere."""
    carriers = {module for module in model.modules() if is_linear_adapter(module) and adapter in module.lora_A}
    in_layers = [carriers.intersection(layer.modules()) for layer in decoder_layers(model)]
    if carriers - set().union(*in_layers):
        return 0
    return next((index for index, found in enumerate(in_layers) if found), 0)


def _refuse_unrouted_layers(model: PreTrainedModel) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not is_linear_adapter(module) or module is model.get_output_embeddings():
            raise ValueError(
                f"an adapter on {name} ({type(module).__name__}) is not supported: lora_target_modules must name "
                "linear layers inside the model, such as all-linear or q_proj,v_proj"
            )


@contextlib.contextmanager
def _quiet_injection() -> Iterator[None]:
    with warnings.catch_warnings():
        # several adapters on one model are what this module is for; `all-linear` never takes a tied output head
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # GPT-2: PEFT corrects it
        yield
