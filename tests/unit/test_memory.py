"""Memory and operations by hand on a small shape, and known sizes of public models."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from peft import LoraConfig

from rlhf.engine.backbone import Backbone
from rlhf.engine.memory import (
    ModelShape,
    RunShape,
    gathered_bytes_per_step,
    kept_activations,
    kept_bytes_per_token,
    memory_parts,
    passes_per_step,
    step_operations,
)
from rlhf.plan import SHAPES, main

SMALL = ModelShape(2, 8, 16, 2, 1, 4, 100, False)
RUN = RunShape("dpo", prompts=4, samples=2, prompt_length=10, response_length=5, lora_r=2)


def test_weights_of_public_models_are_what_their_cards_say() -> None:
    billions = {name: shape.weights / 1e9 for name, shape in SHAPES.items()}
    assert billions == pytest.approx({"1b": 1.24, "8b": 8.03, "32b": 32.8, "70b": 70.6}, rel=0.01)


def test_a_model_counts_as_many_weights_as_it_has(tiny_model) -> None:
    model = tiny_model()
    shape = ModelShape.from_config(model.config.to_dict())
    assert shape.weights == sum(p.numel() for name, p in model.named_parameters() if "norm" not in name)
    backbone = Backbone(model)
    backbone.add_adapter("policy", LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert shape.adapter_weights(3) == sum(p.numel() for p in backbone.adapter_parameters("policy").values())


def test_a_layer_keeps_what_its_backward_pass_reads() -> None:
    # linear: 4 x 8 + 8 + 4 x 16 + 7 x 2 = 118 numbers; keys and values stand (20 + 2 x 10) / 20 = 2 times as often:
    # 2 x 8 + 2 x 4 x 2 = 32 numbers; 4 in float32
    assert kept_bytes_per_token(SMALL, RUN) == 118 * 2 + 32 * 2 + 4 * 4
    assert kept_activations(SMALL, RUN) == 2 * 80 * kept_bytes_per_token(SMALL, RUN)
    assert kept_activations(SMALL, dataclasses.replace(RUN, checkpointing=True)) == 2 * 80 * 8 * 2


def test_a_budget_is_spent_in_whole_groups() -> None:
    by_budget = {budget: dataclasses.replace(RUN, micro_batch_tokens=budget) for budget in (0, 5, 59, 1000)}
    assert {budget: run.pass_tokens for budget, run in by_budget.items()} == {0: 80, 5: 20, 59: 40, 1000: 80}
    assert {budget: passes_per_step(run) for budget, run in by_budget.items()} == {0: 1, 5: 4, 59: 2, 1000: 1}


def test_members_of_an_ensemble_are_rows_with_an_adapter_each() -> None:
    one = dataclasses.replace(RUN, stage="reward")
    three = dataclasses.replace(one, members=3)
    assert kept_activations(SMALL, three) == 3 * kept_activations(SMALL, one)
    assert step_operations(SMALL, three)["update"] == 3 * step_operations(SMALL, one)["update"]
    names = ("adapters", "gradients, optimiser", "working space", "weights")
    parts = [memory_parts(SMALL, run) for run in (one, three)]
    assert [parts[1][name] / parts[0][name] for name in names] == [3, 3, 3, 1]
    # PPO holds policy and value adapter beside those it scores with
    ppo = dataclasses.replace(RUN, stage="ppo")
    adapters = [memory_parts(SMALL, dataclasses.replace(ppo, members=count))["adapters"] for count in (1, 3)]
    assert adapters[1] / adapters[0] == 5 / 3


def test_a_reference_of_its_own_and_a_judge_are_adapters_that_stand() -> None:
    plain = dataclasses.replace(RUN, stage="ppo", shared_value=True, members=0)  # policy alone
    watched = dataclasses.replace(plain, judges=1, own_reference=True)
    one, three = memory_parts(SMALL, plain), memory_parts(SMALL, watched)
    assert three["adapters"] == 3 * one["adapters"]
    assert {name for name in one if one[name] != three[name]} == {"adapters"}
    # the judge is one more row of the scoring pass; the reference is one in either case
    body = 2 * SMALL.body_weights * 80
    assert step_operations(SMALL, watched)["scoring"] - step_operations(SMALL, plain)["scoring"] == body
    assert dataclasses.replace(watched, stage="dpo").adapters == 1


def test_layers_before_the_adapters_are_computed_once_and_keep_nothing() -> None:
    all_layers = dataclasses.replace(RUN, stage="reward", members=3)
    last = dataclasses.replace(all_layers, lora_last_layers=1)  # of two
    assert kept_activations(SMALL, last) == kept_activations(SMALL, all_layers) / 2
    one, half = memory_parts(SMALL, all_layers), memory_parts(SMALL, last)
    for name in ("adapters", "gradients, optimiser"):
        assert half[name] == one[name] / 2
    body = 2 * SMALL.body_weights * 80
    # one row through the first layer, three forward and backward through the second
    assert step_operations(SMALL, last)["update"] == body / 2 + 2 * 3 * body / 2
    ppo = dataclasses.replace(last, stage="ppo", ppo_epochs=1)
    assert step_operations(SMALL, ppo)["scoring"] - 2 * 2 * SMALL.head_weights * 40 == body / 2 + (1 + 5) * body / 2


def test_zero_shares_out_what_it_says() -> None:
    alone, zero2, zero3 = (memory_parts(SMALL, dataclasses.replace(RUN, gpus=4, zero=zero)) for zero in (0, 2, 3))
    # adapter: 2 layers x 2 x (16 + 12 + 12 + 16 + 24 + 24 + 24) = 512 numbers
    assert alone["gradients, optimiser"] == 512 * (12 + 2)
    assert zero2["gradients, optimiser"] == zero3["gradients, optimiser"] == 512 * (12 / 4 + 2)
    assert alone["weights"] == zero2["weights"] == 4 * zero3["weights"] == SMALL.weights * 2
    assert "gathered layers" in zero3
    assert "gathered layers" not in zero2


def test_operations_follow_the_formulae() -> None:
    body, head = SMALL.body_weights, SMALL.head_weights
    assert body == 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16)
    assert step_operations(SMALL, RUN) == {
        "reference": 2 * body * 80 + 2 * head * 40,
        "update": 4 * body * 80 + 4 * head * 40,
    }
    ppo = step_operations(SMALL, dataclasses.replace(RUN, stage="ppo", ppo_epochs=3))
    assert ppo["update"] == 3 * (2 * 4 * body * 80 + 4 * head * 40)
    assert ppo["scoring"] == 4 * 2 * body * 80 + 2 * 2 * head * 40


def test_zero_3_gathers_in_every_pass() -> None:
    run = dataclasses.replace(RUN, stage="reward", zero=3, gpus=4, micro_batch_tokens=40)
    assert gathered_bytes_per_step(SMALL, run) == 2 * 2 * SMALL.weights * 2 * 3 / 4


def test_a_config_without_the_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="has no num_hidden_layers, intermediate_size"):
        ModelShape.from_config({"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9})


# ---- the command ----------------------------------------------------------------------------------------

ROWS = re.findall(r"\| `rlhf plan (.*?)` \| (.*?) \|\n", (Path(__file__).parents[2] / "docs" / "scale.md").read_text())


@pytest.mark.parametrize(("command", "figures"), ROWS)
def test_the_figures_in_the_docs_are_what_the_command_prints(command, figures, capsys) -> None:
    main(shlex.split(command))
    printed = capsys.readouterr().out
    weights, together, zero, tokens, checkpointing = (cell.strip() for cell in figures.split("|"))
    assert re.search(rf"weights +{re.escape(weights)}\n", printed)
    assert re.search(rf"together +{re.escape(together)}\n", printed)
    assert f"ZeRO-{zero}, {tokens} tokens a pass" in printed
    assert f"checkpointing {checkpointing}" in printed


def test_there_are_figures_for_every_size() -> None:
    assert {shlex.split(command)[1] for command, _ in ROWS} == {"8b", "32b", "70b"}


def test_what_does_not_fit_is_said_with_status_1(capsys) -> None:
    assert main(["--model", "70b", "--gpus", "1"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_the_command_counts_the_adapters_of_a_run(capsys) -> None:
    gigabytes = []
    for flags in (["--value_model", "none"], [], ["--own_reference", "true"]):
        main(flags)
        (found,) = re.findall(r"^  adapters +([\d.]+)$", capsys.readouterr().out, flags=re.MULTILINE)
        gigabytes.append(float(found))
    # two, three and four adapters of 8b at r 16: 42 million numbers of four bytes each
    assert gigabytes == pytest.approx([2 * 0.168, 3 * 0.168, 4 * 0.168], abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "0"], "gpus is 0"),
        (["--zero", "1"], "zero is 1"),
        (["--stage", "sft"], "choose reward, dpo or ppo"),
        (["--model", "9x"], "model '9x' is not known"),
        (["--value_model", "both"], "choose adapter, shared or none"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_mixture_of_experts_is_refused() -> None:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    config = dict.fromkeys(names, 8) | {"num_local_experts": 8}
    with pytest.raises(ValueError, match="num_local_experts: the memory of a mixture of experts"):
        ModelShape.from_config(config)
    assert ModelShape.from_config(config | {"num_local_experts": 1}).layers == 8
