"""What is chosen for a run by the memory that is free, with sizes worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlhf.engine.free_memory import available_bytes, free_bytes
from rlhf.engine.memory import ModelShape, RunShape, memory_parts
from rlhf.engine.memory_choice import budgets, choose
from rlhf.engine.packing import Group
from rlhf.engine.sources import ModelSource
from rlhf.training.dpo_trainer import DPOArguments
from rlhf.training.memory_plan import plan_run, run_shape
from rlhf.training.ppo_arguments import PPOArguments

SMALL = ModelShape(2, 8, 16, 2, 1, 4, 100, False)
RUN = RunShape("reward", prompts=4, samples=1, prompt_length=900, response_length=100, lora_r=2)

# By hand for SMALL in bfloat16, one response. Weights (2 x 576 + 2 x 800) x 2 = 5,504; an adapter of 512 numbers x 4
# = 2,048, its gradients and optimiser 512 x 14 = 7,168; fixed 60e6. A layer keeps 118 x 2 + (16 + 8) x 2 + 16 = 300
# bytes a token, and the backward pass 7 times that: 2,700 a token of two layers; checkpointed 2 x 16 + 2,100 = 2,132.
STANDING = 60_000_000 + 5_504 + 2_048 + 7_168
KEPT, AGAIN = 2_700, 2_132


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (STANDING + 4_000 * KEPT, (0, False, True)),
        (STANDING + 4_000 * KEPT - 1, (2_048, False, True)),
        # 2,048 tokens hold two groups of 1,000, and 1,024 one
        (STANDING + 2_000 * KEPT - 1, (1_024, False, True)),
        (STANDING + 1_000 * KEPT - 1, (1_024, True, True)),
        (STANDING + 1_000 * AGAIN - 1, (512, True, False)),
    ],
)
def test_less_memory_means_fewer_tokens_then_checkpointing(room, expected) -> None:
    run, fits = choose(SMALL, RUN, room)
    assert (run.micro_batch_tokens, run.checkpointing, fits) == expected


def test_what_is_settled_stays() -> None:
    run, fits = choose(SMALL, RUN, STANDING, checkpointing=[False], micro_batch_tokens=[0])
    assert (run.micro_batch_tokens, run.checkpointing, fits) == (0, False, False)


def test_ppo_gives_up_the_copy_before_it_computes_activations_again() -> None:
    ppo = RunShape("ppo", prompts=1, samples=1, prompt_length=900, response_length=100, lora_r=2)
    unmerged = sum(memory_parts(SMALL, ppo).values()) - 2 * 576 * 2  # the body's weights in bfloat16
    run, fits = choose(SMALL, ppo, unmerged)
    assert (run.merged_copy, run.checkpointing, run.micro_batch_tokens, fits) == (False, False, 0, True)
    assert choose(SMALL, ppo, unmerged + 2 * 576 * 2)[0].merged_copy


@pytest.mark.parametrize(
    ("prompts", "length", "expected"),
    [(4, 1000, [0, 2048, 1024, 512]), (4, 1024, [0, 2048, 1024]), (1, 1000, [0, 512]), (1, 1, [0])],
)
def test_budgets_are_powers_of_two_down_to_the_longest_group(prompts, length, expected) -> None:
    assert budgets(RunShape("dpo", prompts, 1, length - 1, 1)) == expected


def test_groups_of_different_lengths_may_fill_a_budget() -> None:
    tokens = {b: RunShape("dpo", 4, 1, 50, 50, b, batch_tokens=250).pass_tokens for b in (0, 64, 128, 512)}
    assert tokens == {0: 250, 64: 100, 128: 128, 512: 250}


def test_quantised_layers_count_by_their_own_size() -> None:
    run = RunShape("reward", quantised_bytes=0.5)
    assert memory_parts(SMALL, run)["weights"] == 2 * 576 * 0.5 + 2 * 800 * 2


# ---- free memory ----------------------------------------------------------------------------------------


def machine(root: Path, *, available_kb: int, cgroup: str = "", files: dict[str, str] | None = None) -> Path:
    """A root folder whose files say what those of a Linux would."""
    contents = {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:  {available_kb} kB\n", "proc/self/cgroup": cgroup}
    for name, text in (contents | (files or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_memory_without_a_limit(tmp_path) -> None:
    files = {"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "5\n"}
    assert available_bytes(machine(tmp_path, available_kb=7, cgroup="0::/a\n", files=files)) == 7 * 1024


def test_the_lowest_limit_of_a_control_group_counts_without_its_cache(tmp_path) -> None:
    files = {
        "sys/fs/cgroup/a/memory.max": "5000\n",
        "sys/fs/cgroup/a/memory.current": "3000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 500\n",
        "sys/fs/cgroup/a/b/memory.max": "4900\n",
        "sys/fs/cgroup/a/b/memory.current": "100\n",
    }
    assert available_bytes(machine(tmp_path, available_kb=7, cgroup="0::/a/b\n", files=files)) == 2500


def test_a_limit_of_version_1_that_a_container_sees_at_the_mount(tmp_path) -> None:
    mount = "sys/fs/cgroup/memory"
    files = {f"{mount}/memory.limit_in_bytes": "2000", f"{mount}/memory.usage_in_bytes": "500"}
    root = machine(tmp_path, available_kb=7, cgroup="5:cpu,memory:/docker/1\n4:pids:/x\n", files=files)
    assert available_bytes(root) == 1500


def test_processes_of_a_machine_share_its_memory(monkeypatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = free_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.1)


def test_what_cannot_be_read_is_none(monkeypatch) -> None:
    assert free_bytes(torch.device("meta")) is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert free_bytes(torch.device("cpu")) is None


# ---- a run ----------------------------------------------------------------------------------------------

NAMES = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 100,
}
GROUPS = [Group(range(900), [range(50), range(50)]), Group(range(90), [range(5), range(5)])] * 4
# Four groups of 250 tokens; a layer keeps 118 x 2 + (16 + 8 x 2.8) x 2 + 16 = 328.8 bytes of each, nine times that
# are planned: 3.0 MB for 1,000 tokens, 1.5 MB for 512, beside 60 MB that stand. Four fifths of 77.6 MB are 62.1.
SHORT = [Group(range(200), [range(25), range(25)])] * 4
ENOUGH, LITTLE, TOO_LITTLE = 0.2, 0.0776, 0.01


@pytest.fixture
def source(tmp_path) -> ModelSource:
    (tmp_path / "config.json").write_text(json.dumps(NAMES))
    return ModelSource(tmp_path, None, "tiny")


def arguments(folder: Path, memory: float | None, kind: type = DPOArguments, **settings: Any) -> Any:
    settings = {"output_dir": str(folder / "run"), "use_cpu": True, "lora_r": 2, "dtype": "bfloat16"} | settings
    return kind(memory_limit_gb=memory, **settings)


def test_the_largest_batch_is_that_of_the_longest_groups(tmp_path) -> None:
    run = run_shape("dpo", arguments(tmp_path, 1, per_device_train_batch_size=5), GROUPS)
    assert (run.prompt_length, run.response_length, run.samples) == (900, 50, 2)
    assert run.batch_tokens == 4 * 1000 + 100
    assert run_shape("dpo", arguments(tmp_path, 1, per_device_train_batch_size=10), GROUPS[:2]).batch_tokens == 9100


def test_the_adapters_of_ppo_are_those_that_its_settings_ask_for(tmp_path) -> None:
    lean = {"scorer": "a:b", "advantage_estimator": "rloo", "samples_per_prompt": 2}
    assert run_shape("ppo", arguments(tmp_path, 1, PPOArguments, **lean), GROUPS).adapters == 1
    assert run_shape("ppo", arguments(tmp_path, 1, PPOArguments, reward_model="a"), GROUPS).adapters == 3
    full = {"reward_model": ["a", "b"], "judge_model": "c", "reference_update_steps": 2}
    # policy, value, two reward models, judge, reference
    assert run_shape("ppo", arguments(tmp_path, 1, PPOArguments, **full), GROUPS).adapters == 6


def test_with_enough_memory_nothing_changes(tmp_path, source, capsys) -> None:
    args = arguments(tmp_path, ENOUGH)
    plan_run("dpo", args, source, SHORT)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (0, False)
    said = capsys.readouterr().out
    assert said.startswith("dpo: a whole batch in one pass (")
    assert said.endswith("GB planned, 0.20 GB free)\n")
    assert len(said.splitlines()) == 1


def test_with_little_memory_batches_are_split(tmp_path, source, capsys) -> None:
    args = arguments(tmp_path, LITTLE)
    plan_run("dpo", args, source, SHORT)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (512, False)
    assert "passes of 512 tokens (0.06 GB planned" in capsys.readouterr().out


def test_on_a_cpu_a_pass_is_no_longer_than_what_is_faster(tmp_path, source) -> None:
    args = arguments(tmp_path, ENOUGH)
    assert args.pass_tokens == 1024
    plan_run("dpo", args, source, GROUPS)
    assert args.micro_batch_tokens == args.pass_tokens == 1024
    assert arguments(tmp_path, ENOUGH, micro_batch_tokens=0).pass_tokens == 0
    # a group longer than that goes alone, whatever the limit; the nearest power of two below it is taken
    args = arguments(tmp_path, ENOUGH)
    plan_run("dpo", args, source, [Group(range(3000), [range(5), range(5)])] * 2)
    assert args.micro_batch_tokens == 2048


def test_where_nothing_fits_the_smallest_runs_and_a_warning_says_what_to_change(tmp_path, source, caplog) -> None:
    args = arguments(tmp_path, TOO_LITTLE)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing, args.gradient_checkpointing) == (512, True, True)
    (record,) = caplog.records
    assert "GB planned, 0.01 GB free" in record.getMessage()
    assert "--max_prompt_length" in record.getMessage()
    assert "--quantization nf4" in record.getMessage()


def test_what_the_user_set_is_left(tmp_path, source, capsys) -> None:
    args = arguments(tmp_path, TOO_LITTLE, micro_batch_tokens=0)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (0, True)
    args = arguments(tmp_path, TOO_LITTLE, activation_checkpointing=False)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (512, False)
    capsys.readouterr()
    args = arguments(tmp_path, TOO_LITTLE, micro_batch_tokens=0, activation_checkpointing=False)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (0, False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("before", [{"micro_batch_tokens": 1024, "activation_checkpointing": True}, {"lora_r": 2}])
def test_a_resumed_run_does_what_it_did_before(before, tmp_path, source, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(before))
    args = arguments(tmp_path, ENOUGH if len(before) == 2 else TOO_LITTLE, resume_from_checkpoint="latest")
    plan_run("dpo", args, source, GROUPS)
    expected = (1024, True) if len(before) == 2 else (0, False)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == expected
    assert "of the run that is resumed" in capsys.readouterr().out


def test_ppo_decides_on_the_copy_too(tmp_path, source, capsys) -> None:
    for memory, merged in ((ENOUGH, True), (TOO_LITTLE, False)):
        args = arguments(tmp_path, memory, PPOArguments, scorer="m:f")
        plan_run("ppo", args, source, GROUPS)
        assert args.merged_rollouts is merged
        assert ("rollouts from unmerged weights" in capsys.readouterr().out) is not merged
    args = arguments(tmp_path, TOO_LITTLE, PPOArguments, scorer="m:f", rollout_engine="transformers")
    plan_run("ppo", args, source, GROUPS)
    assert args.merged_rollouts is None
    with pytest.raises(ValueError, match="merged_rollouts is false, which rollout_engine transformers"):
        arguments(tmp_path, None, PPOArguments, scorer="m:f", rollout_engine="transformers", merged_rollouts=False)


def test_what_cannot_be_planned_runs_as_it_is(tmp_path, source, capsys, monkeypatch) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    args = arguments(tmp_path, TOO_LITTLE)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (0, False)
    assert "nothing is planned: the model's config.json has no" in capsys.readouterr().out
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    args = arguments(tmp_path, None)
    plan_run("dpo", args, source, GROUPS)
    assert (args.micro_batch_tokens, args.activation_checkpointing) == (0, False)
    assert "free memory cannot be read" in capsys.readouterr().out
