"""Policy, reference, value and reward as rows of one pass over one frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPTBigCodeConfig,
    LlamaConfig,
)

from rlhf.engine.adapters import (
    adapter_tensors,
    add_adapter_from,
    head_tensors,
    last_layers,
    load_adapter_weights,
    load_head_weights,
    write_adapter,
    write_head,
)
from rlhf.engine.backbone import POLICY, POLICY_WITH_VALUE, REFERENCE, REWARD, VALUE, Backbone, Role, layer_list
from rlhf.engine.generation import MergedCopy
from rlhf.engine.packing import Group, pack
from rlhf.training.arguments import ModelArguments

BATCH = pack([Group([5, 9, 13, 7], [[8, 30, 2], [11, 12, 13, 14, 2], [40]]), Group([33, 34], [[35, 36, 2]])])
ROLES = [REFERENCE, POLICY, VALUE, REWARD]
FIELDS = ("logprobs", "entropy", "values", "scores")


def lora(targets: str | list[str] = "all-linear", **settings: object) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)


@pytest.fixture
def backbone(tiny_model, fill_adapter) -> Backbone:
    """Three adapters and two heads, all as if trained."""
    backbone = Backbone(tiny_model())
    for number, name in enumerate(("policy", "value", "reward")):
        backbone.add_adapter(name, lora())
        fill_adapter(backbone, name, seed=number)
    for number, name in enumerate(("value", "reward")):
        head = backbone.add_head(name)
        torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(10 + number))
        torch.nn.init.constant_(head.linear.bias, 0.5 + number)
    return backbone


def merged_model(backbone: Backbone, name: str, plain: torch.nn.Module) -> torch.nn.Module:
    """A stock model with W + (alpha / r) B A written into its weights."""
    parameters = backbone.adapter_parameters(name)
    for key, a in parameters.items():
        if ".lora_A." in key:
            b = parameters[key.replace(".lora_A.", ".lora_B.")]
            layer = plain.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            with torch.no_grad():
                layer.weight += 2.0 * b @ a
    return plain


def test_an_untrained_adapter_is_the_reference_to_the_last_bit(tiny_model) -> None:
    backbone = Backbone(tiny_model())
    for name in ("policy", "value", "reward"):
        backbone.add_adapter(name, lora())
        backbone.add_head(name)
    outputs = backbone(BATCH, [replace(role, entropy=role.logprobs) for role in ROLES])
    assert outputs["policy"].logprobs.equal(outputs["reference"].logprobs)
    assert outputs["policy"].entropy.equal(outputs["reference"].entropy)
    # an untrained head says 0
    assert outputs["value"].values.equal(torch.zeros(len(BATCH.target_ids)))
    assert outputs["reward"].scores.equal(torch.zeros(BATCH.num_responses))


def test_the_reference_is_the_plain_model_whatever_adapters_are_there(backbone, tiny_model, response_logprobs) -> None:
    alone = response_logprobs(tiny_model(), [33, 34], [35, 36, 2])
    reference = backbone(BATCH, [REWARD, REFERENCE])["reference"].logprobs
    torch.testing.assert_close(reference[-3:], alone, rtol=0, atol=1e-5)


def test_a_role_is_the_model_with_its_adapter_merged(backbone, tiny_model, response_logprobs) -> None:
    stock = merged_model(backbone, "policy", tiny_model())
    alone = [response_logprobs(stock, [5, 9, 13, 7], r) for r in ([8, 30, 2], [11, 12, 13, 14, 2], [40])]
    alone.append(response_logprobs(stock, [33, 34], [35, 36, 2]))
    policy = backbone(BATCH, ROLES)["policy"].logprobs
    torch.testing.assert_close(policy, torch.cat(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_a_role_says_does_not_depend_on_the_roles_beside_it(backbone, role) -> None:
    alone = backbone(BATCH, [role])[role.name]
    for beside in (ROLES, ROLES[::-1], [role, REFERENCE], [POLICY, role] if role != POLICY else [VALUE, role]):
        together = backbone(BATCH, beside)[role.name]
        for field in FIELDS:
            one, other = getattr(alone, field), getattr(together, field)
            assert (one is None and other is None) or one.equal(other), field


def backbone_on_last_layers(tiny_model, fill_adapter, **last_layers: int) -> Backbone:
    """Four layers, adapters on the last so many of them as if trained, and heads."""
    backbone = Backbone(tiny_model(num_hidden_layers=4))
    for number, (name, count) in enumerate(last_layers.items()):
        settings = ModelArguments(lora_r=4, lora_alpha=8, lora_last_layers=count)
        backbone.add_adapter(name, settings.lora_config(backbone.model))
        fill_adapter(backbone, name, seed=number)
        torch.nn.init.normal_(backbone.add_head(name).linear.weight)
    return backbone


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_without_an_adapter_are_computed_once_and_change_no_bit(tiny_model, fill_adapter, checkpointing) -> None:
    backbone = backbone_on_last_layers(tiny_model, fill_adapter, policy=1, value=2, reward=2)
    backbone.train_only(adapters=["policy", "value"], heads=["value"])
    backbone.train()
    if checkpointing:
        backbone.activation_checkpointing_enable()
    rows: list[int] = []
    layers = [backbone.model.get_submodule(f"model.layers.{index}") for index in range(4)]
    hooks = [layer.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))) for layer in layers]
    together = backbone(BATCH, ROLES)
    assert rows == [1, 1, 4, 4]
    for hook in hooks:
        hook.remove()
    sum(
        together[name].logprobs.sum() if name == "policy" else together[name].values.sum()
        for name in ("policy", "value")
    ).backward()
    beside = {name: p.grad.clone() for name, p in backbone.adapter_parameters("policy").items()}
    assert all(gradient.abs().sum() > 0 for gradient in beside.values())
    backbone.zero_grad()
    for role in ROLES:
        alone = backbone(BATCH, [role])[role.name]
        for field in FIELDS:
            one, other = getattr(alone, field), getattr(together[role.name], field)
            assert (one is None and other is None) or one.equal(other), (role.name, field)
        if role == POLICY:
            alone.logprobs.sum().backward()
            parameters = backbone.adapter_parameters("policy")
            assert all(parameters[name].grad.equal(gradient) for name, gradient in beside.items())


def test_roles_with_adapters_on_different_layers_meet_in_any_pass(tiny_model, fill_adapter) -> None:
    backbone = backbone_on_last_layers(tiny_model, fill_adapter, policy=1, value=2, reward=0)
    alone = {role.name: backbone(BATCH, [role])[role.name] for role in ROLES}
    for roles in (those for count in (2, 3, 4) for those in permutations(ROLES, count)):
        for name, output in backbone(BATCH, roles).items():
            for field in FIELDS:
                one, other = getattr(alone[name], field), getattr(output, field)
                assert (one is None and other is None) or one.equal(other), (name, field)


def test_checkpointing_computes_no_layer_before_the_first_adapter_again(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model(num_hidden_layers=4))
    backbone.add_adapter("policy", ModelArguments(lora_r=4, lora_last_layers=1).lora_config(backbone.model))
    fill_adapter(backbone, "policy")
    backbone.train_only(adapters=["policy"])
    backbone.train()
    backbone.activation_checkpointing_enable()
    ran: list[int] = []
    for index in range(4):
        layer = backbone.model.get_submodule(f"model.layers.{index}.mlp")
        layer.register_forward_pre_hook(lambda _, args, index=index: ran.append(index))
    backbone(BATCH, [POLICY, REFERENCE])["policy"].logprobs.sum().backward()
    assert ran == [0, 1, 2, 3, 3]


def test_a_model_whose_rows_must_stay_as_many_shares_no_layers(tiny_model, fill_adapter) -> None:
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    backbone = Backbone(tiny_model(GPTBigCodeConfig, **settings))
    backbone.add_adapter("policy", ModelArguments(lora_r=4, lora_last_layers=1).lora_config(backbone.model))
    fill_adapter(backbone, "policy")
    together = backbone(BATCH, [REFERENCE, POLICY])
    assert together["policy"].logprobs.equal(backbone(BATCH, [POLICY])["policy"].logprobs)
    assert not together["policy"].logprobs.equal(together["reference"].logprobs)


def test_an_adapter_on_the_last_layers_is_told_from_one_on_all(tiny_model, tmp_path) -> None:
    backbone = Backbone(tiny_model(num_hidden_layers=4))
    for count in (0, 1, 3, 4):
        name = f"last{count}"
        backbone.add_adapter(name, ModelArguments(lora_r=4, lora_last_layers=count).lora_config(backbone.model))
        save(backbone, name, tmp_path / name, "base")
        assert last_layers(tmp_path / name) == count % 4


def test_more_layers_than_there_are_or_fewer_than_none_are_refused(tiny_model) -> None:
    model = tiny_model(num_hidden_layers=4)
    with pytest.raises(ValueError, match="lora_last_layers is 5: the model has 4 layers; choose at most that"):
        ModelArguments(lora_last_layers=5).lora_config(model)
    with pytest.raises(ValueError, match="lora_last_layers is -1: it must be at least 0"):
        ModelArguments(lora_last_layers=-1).check_model_arguments()


def test_the_last_layers_are_found_under_any_name_or_refused(tiny_model) -> None:
    model = tiny_model(BertConfig, is_decoder=True, max_position_embeddings=64)  # bert.encoder.layer.0, .1
    inject_adapter_in_model(ModelArguments(lora_r=4, lora_last_layers=1).lora_config(model), model)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 6
    assert all(name.startswith("bert.encoder.layer.1.") for name in adapted)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.device("meta"):  # it sees with as many layers as it reads with
        seeing = Gemma3ForConditionalGeneration(Gemma3Config(text_config=sizes, vision_config=sizes))
    assert layer_list(seeing) == "model.language_model.layers"
    model = tiny_model(GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model.transformer.h = torch.nn.Sequential(*model.transformer.h)
    with pytest.raises(ValueError, match="lora_last_layers is 1: GPT2LMHeadModel has no list of 2 layers"):
        ModelArguments(lora_last_layers=1).lora_config(model)


def test_two_passes_are_bit_equal(backbone) -> None:
    backbone.train()
    one, other = (backbone(BATCH, [POLICY])["policy"] for _ in range(2))
    assert one.logprobs.equal(other.logprobs)


def test_a_role_says_only_what_it_is_asked_for(backbone) -> None:
    outputs = backbone(BATCH, [REFERENCE, replace(POLICY, entropy=True), VALUE, REWARD])
    said = {name: {f for f in FIELDS if getattr(out, f) is not None} for name, out in outputs.items()}
    assert said == {
        "reference": {"logprobs"},
        "policy": {"logprobs", "entropy"},
        "value": {"values"},
        "reward": {"scores"},
    }


def test_asking_for_the_entropy_changes_no_bit_of_the_logprobs(backbone) -> None:
    # PPO asks when it scores and not when it trains, and its first ratio is exactly 1
    asked = backbone(BATCH, [replace(POLICY, entropy=True)])["policy"].logprobs
    assert backbone(BATCH, [POLICY])["policy"].logprobs.equal(asked)


def test_values_are_read_before_each_token_and_scores_at_the_last_one(backbone, tiny_model) -> None:
    outputs = backbone(BATCH, ROLES)
    for name, head in (("value", backbone.heads["value"]), ("reward", backbone.heads["reward"])):
        stock = merged_model(backbone, name, tiny_model())
        hidden = stock.base_model(torch.tensor([[33, 34, 35, 36, 2]])).last_hidden_state[0]
        readings = hidden @ head.linear.weight[0] + head.linear.bias
        if name == "value":  # of the prompt, then after 35 and after 36: never after the last token
            torch.testing.assert_close(outputs["value"].values[-3:], readings[1:4], rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(outputs["reward"].scores[-1], readings[4], rtol=1e-4, atol=1e-4)


def test_head_output_is_scaled_and_shifted(backbone) -> None:
    plain = backbone(BATCH, [REWARD])["reward"].scores
    backbone.heads["reward"].scale.fill_(2.0)
    backbone.heads["reward"].shift.fill_(-3.0)
    torch.testing.assert_close(backbone(BATCH, [REWARD])["reward"].scores, 2 * plain - 3)


def test_policy_and_value_may_share_one_row(backbone) -> None:
    shared = backbone(BATCH, [POLICY_WITH_VALUE])["policy"]
    assert shared.logprobs.equal(backbone(BATCH, [POLICY])["policy"].logprobs)
    through_policy = backbone(BATCH, [Role("v", adapter="policy", value_head="value")])["v"].values
    assert shared.values.equal(through_policy)


def grad_of(backbone: Backbone) -> dict[str, bool]:
    """Which adapters and heads got a gradient other than zero."""
    groups = {name: list(backbone.adapter_parameters(name).values()) for name in ("policy", "value", "reward")}
    groups |= {f"{name} head": list(head.parameters()) for name, head in backbone.heads.items()}
    return {
        name: any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters)
        for name, parameters in groups.items()
    }


@pytest.mark.parametrize(
    "loss, reached",
    [
        (lambda out: out["policy"].logprobs.sum(), {"policy"}),
        (lambda out: out["value"].values.square().sum(), {"value", "value head"}),
        (lambda out: out["reward"].scores.square().sum(), {"reward", "reward head"}),
    ],
    ids=["policy", "value", "reward"],
)
def test_a_loss_reaches_its_own_role_only(backbone, loss: Callable, reached: set[str]) -> None:
    backbone.train_only(adapters=["policy", "value", "reward"], heads=["value", "reward"])
    loss(backbone(BATCH, ROLES)).backward()
    assert {name for name, found in grad_of(backbone).items() if found} == reached
    trained = {
        id(p)
        for name in reached
        for p in (
            backbone.heads[name.split()[0]].parameters()
            if name.endswith("head")
            else backbone.adapter_parameters(name).values()
        )
    }
    assert all(p.grad is None or not p.grad.abs().any() for p in backbone.parameters() if id(p) not in trained)


def test_train_only_names_everything_that_learns(backbone) -> None:
    backbone.train_only(adapters=["value"], heads=["value"])
    learning = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {
        *(f"model.{n}" for n, _ in backbone.model.named_parameters() if ".value." in n),
        *("heads.value.linear.weight", "heads.value.linear.bias"),
    }
    assert len(learning) == 2 * 14 + 2


def test_training_never_changes_the_base(backbone, tiny_model) -> None:
    backbone.train_only(adapters=["policy", "value"], heads=["value"])
    before = backbone.heads["value"].linear.weight.clone()
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        outputs = backbone(BATCH, [POLICY, VALUE])
        (outputs["policy"].logprobs.sum() + outputs["value"].values.square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not before.equal(backbone.heads["value"].linear.weight)
    base = {name.replace(".base_layer", ""): p for name, p in backbone.model.named_parameters() if ".lora_" not in name}
    start = dict(tiny_model().named_parameters())
    assert base.keys() == start.keys()
    assert all(base[name].equal(start[name]) for name in start)


def test_lora_dropout_is_of_the_role_and_only_while_training(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model())
    backbone.add_adapter("policy", lora(lora_dropout=0.5))
    fill_adapter(backbone, "policy")
    torch.manual_seed(0)
    backbone.train()
    one, other = (backbone(BATCH, [REFERENCE, POLICY]) for _ in range(2))
    assert not one["policy"].logprobs.equal(other["policy"].logprobs)
    assert one["reference"].logprobs.equal(other["reference"].logprobs)
    backbone.eval()
    one, other = (backbone(BATCH, [POLICY])["policy"].logprobs for _ in range(2))
    assert one.equal(other)


def test_an_adapter_from_a_folder_has_no_dropout(tiny_model, fill_adapter, tmp_path) -> None:
    backbone = Backbone(tiny_model())
    config = lora(lora_dropout=0.5)
    backbone.add_adapter("reward", config)
    fill_adapter(backbone, "reward")
    write_adapter(tmp_path, adapter_tensors(backbone, "reward"), config, backbone_path="tiny")

    reader = Backbone(tiny_model())
    add_adapter_from(reader, "policy", tmp_path)
    reader.train()
    one, other = (reader(BATCH, [POLICY])["policy"].logprobs for _ in range(2))
    assert one.equal(other)


def test_adapters_stay_in_float32_over_a_bfloat16_base(tiny_model, fill_adapter) -> None:
    backbone = Backbone(tiny_model(dtype=torch.bfloat16))
    backbone.add_adapter("policy", lora())
    backbone.add_adapter("value", lora())
    backbone.add_head("value")
    assert {p.dtype for name in ("policy", "value") for p in backbone.adapter_parameters(name).values()} == {
        torch.float32
    }
    assert backbone.heads["value"].linear.weight.dtype == torch.float32
    fill_adapter(backbone, "policy")
    outputs = backbone(BATCH, [REFERENCE, POLICY, VALUE])
    assert outputs["policy"].logprobs.dtype == outputs["value"].values.dtype == torch.float32
    assert not outputs["policy"].logprobs.equal(outputs["reference"].logprobs)


# ---- merged copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config_class, settings",
    [
        pytest.param(LlamaConfig, {}, id="llama"),
        pytest.param(LlamaConfig, {"tie_word_embeddings": True}, id="llama-tied"),
        pytest.param(GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, id="gpt2-transposed"),
    ],
)
def test_merged_copy_says_what_the_adapter_says(
    tiny_model, fill_adapter, response_logprobs, config_class, settings
) -> None:
    backbone = Backbone(tiny_model(config_class, **settings))
    for number, name in enumerate(("value", "policy")):
        backbone.add_adapter(name, lora())
        fill_adapter(backbone, name, seed=number)
    merged = MergedCopy(backbone, "policy")
    policy = backbone(BATCH, [POLICY, REFERENCE])["policy"].logprobs
    for rows, prompt, response in ((slice(0, 3), [5, 9, 13, 7], [8, 30, 2]), (slice(-3, None), [33, 34], [35, 36, 2])):
        alone = response_logprobs(merged.model, prompt, response)
        torch.testing.assert_close(alone, policy[rows], rtol=0, atol=1e-4)


def test_merged_copy_follows_the_adapter_without_drift(backbone, response_logprobs, fill_adapter) -> None:
    merged = MergedCopy(backbone, "policy")
    first = response_logprobs(merged.model, [33, 34], [35, 36, 2])
    for seed in (7, 8, 0):  # 0 is what the fixture gave the policy
        fill_adapter(backbone, "policy", seed=seed)
        merged.sync()
        now = response_logprobs(merged.model, [33, 34], [35, 36, 2])
        assert now.equal(first) == (seed == 0)


# ---- adapters and heads on disk -------------------------------------------------------------------------


def save(backbone: Backbone, name: str, folder, backbone_path: str) -> None:
    write_adapter(folder, adapter_tensors(backbone, name), backbone.adapter_configs[name], backbone_path=backbone_path)


def test_plain_peft_reads_a_saved_adapter_and_says_the_same(backbone, tiny_model, tmp_path, response_logprobs) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    policy = backbone(BATCH, [POLICY])["policy"].logprobs
    save(backbone, "policy", tmp_path / "policy", str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(base, str(tmp_path / "policy")).eval()
    assert model.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    alone = response_logprobs(model, [33, 34], [35, 36, 2])
    torch.testing.assert_close(alone, policy[-3:], rtol=0, atol=1e-4)
    assert (alone - response_logprobs(tiny_model(), [33, 34], [35, 36, 2])).abs().max() > 0.01


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}],
    ids=["plain", "rslora", "patterns"],
)
def test_an_adapter_trained_by_plain_peft_is_read(tiny_model, tmp_path, response_logprobs, settings) -> None:
    config = lora(["q_proj", "down_proj"], init_lora_weights=False, **settings)
    model = get_peft_model(tiny_model(), config).eval()
    model.save_pretrained(str(tmp_path))
    backbone = Backbone(tiny_model())
    backbone.add_adapter("value", lora())
    add_adapter_from(backbone, "policy", tmp_path)
    alone = response_logprobs(model, [33, 34], [35, 36, 2])
    torch.testing.assert_close(backbone(BATCH, [POLICY])["policy"].logprobs[-3:], alone, rtol=0, atol=1e-4)


def test_an_adapter_may_start_another_one(backbone, tmp_path) -> None:
    save(backbone, "reward", tmp_path, "base")
    load_adapter_weights(backbone, "value", tmp_path)
    value, reward = backbone.adapter_parameters("value"), backbone.adapter_parameters("reward")
    assert all(value[key].equal(reward[key]) for key in reward)
    assert all(value[key] is not reward[key] for key in reward)


def test_saving_and_reading_an_adapter_changes_no_bit(backbone, tiny_model, tmp_path) -> None:
    save(backbone, "policy", tmp_path, "base")
    other = Backbone(tiny_model())
    add_adapter_from(other, "policy", tmp_path)
    assert other(BATCH, [POLICY])["policy"].logprobs.equal(backbone(BATCH, [POLICY])["policy"].logprobs)


def test_saved_adapters_hold_nothing_of_the_base(backbone, tmp_path) -> None:
    save(backbone, "policy", tmp_path, "base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 28
    assert all(".lora_A.weight" in key or ".lora_B.weight" in key for key in tensors)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}


def test_heads_keep_weights_and_normalisation(backbone, tmp_path) -> None:
    head = backbone.heads["reward"]
    head.scale.fill_(0.25)
    head.shift.fill_(-1.5)
    write_head(tmp_path, head_tensors(backbone, "reward"), "reward")
    load_head_weights(backbone, "value", tmp_path, saved_as="reward")
    assert all(v.equal(head.state_dict()[k]) for k, v in backbone.heads["value"].state_dict().items())
    with pytest.raises(ValueError, match=r"holds no value_head\.safetensors"):
        load_head_weights(backbone, "value", tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [({"hidden_size": 64}, "is .* there and .* here"), ({"num_hidden_layers": 3}, "tensors differ")],
)
def test_an_adapter_of_another_backbone_is_refused(backbone, tiny_model, tmp_path, settings, message) -> None:
    save(backbone, "policy", tmp_path, "base")
    other = Backbone(tiny_model(**settings))
    other.add_adapter("policy", lora())
    with pytest.raises(ValueError, match=message):
        load_adapter_weights(other, "policy", tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"alora_invocation_tokens": [5]},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # PEFT takes a saved bias for a broken weight
def test_variants_of_lora_that_are_more_than_two_factors_are_refused(tiny_model, tmp_path, settings) -> None:
    get_peft_model(tiny_model(attention_bias=True), lora(["q_proj"], **settings)).save_pretrained(str(tmp_path))
    backbone = Backbone(tiny_model(attention_bias=True))
    with pytest.raises(ValueError, match=f"variant of LoRA with .*{next(iter(settings))}"):
        add_adapter_from(backbone, "policy", tmp_path)
    assert backbone.lora_layers() == {}


@pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], ["q_proj", "lm_head"]])
def test_adapters_on_layers_that_are_not_routed_are_refused(tiny_model, targets) -> None:
    with pytest.raises(ValueError, match=f"an adapter on .*{targets[1]}"):
        Backbone(tiny_model()).add_adapter("policy", lora(targets))


def test_a_folder_without_an_adapter_is_refused(tiny_model, tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no adapter"):
        add_adapter_from(Backbone(tiny_model()), "policy", tmp_path)


def test_two_adapters_of_one_name_are_refused(backbone) -> None:
    with pytest.raises(ValueError, match="'policy' is there already"):
        backbone.add_adapter("policy", lora())
