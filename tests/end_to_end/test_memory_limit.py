"""Runs that find too little memory choose small passes, learn the same, and keep to their choice when resumed."""

from __future__ import annotations

import pytest
import yaml

from tests.end_to_end.launching import logged

CHOSEN = ("micro_batch_tokens", "activation_checkpointing")


def test_a_run_with_little_memory_learns_what_one_with_much_does(stage_arguments, tmp_path, rlhf) -> None:
    arguments = [*stage_arguments("dpo"), "--lora_dropout", 0, "--per_device_train_batch_size", 4, "--save_steps", 1]
    little = ["--output_dir", tmp_path / "little"]
    rlhf("dpo", *arguments, "--max_steps", 2, "--output_dir", tmp_path / "much")
    done = rlhf("dpo", *arguments, *little, "--memory_limit_gb", "0.05", "--max_steps", 1)
    assert "the run may end out of memory; lower or set --max_prompt_length" in done.stderr
    chosen = [config_of(tmp_path / "little")[name] for name in CHOSEN]
    # a pair of the data has 64 to 127 tokens
    assert chosen == [64, True]
    assert "dpo: passes of 64 tokens, activations computed again (0.0" in done.stdout

    done = rlhf("dpo", *arguments, *little, "--max_steps", 2, "--resume_from_checkpoint", "latest")
    assert "as in the config.yaml of the run that is resumed" in done.stdout
    assert [config_of(tmp_path / "little")[name] for name in CHOSEN] == chosen
    assert [config_of(tmp_path / "much")[name] for name in CHOSEN] == [0, False]
    for row, expected in zip(logged(tmp_path / "little"), logged(tmp_path / "much"), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_ppo_samples_without_a_copy_where_memory_is_short(stage_arguments, tmp_path, rlhf) -> None:
    limit = ["--memory_limit_gb", "0.05", "--max_steps", "2", "--output_dir", str(tmp_path / "ppo")]
    done = rlhf("ppo", *stage_arguments("ppo"), *limit)
    assert "activations computed again, rollouts from unmerged weights" in done.stdout
    assert config_of(tmp_path / "ppo")["merged_rollouts"] is False
    rows = logged(tmp_path / "ppo")
    assert len(rows) == 2
    # what it sampled from is the policy that it scores, also once that has learnt
    assert all(row["policy/sampler_gap"] < 1e-5 for row in rows)


def config_of(run) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())
