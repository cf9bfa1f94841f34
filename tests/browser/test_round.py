"""The round closes: what an aligned policy says is judged in a browser and trains the next reward model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from rlhf.data.comparisons import read_comparisons
from tests.browser.judge import Judge
from tests.browser.server import Server
from tests.end_to_end.conftest import data, rlhf, tiny_chat_model  # noqa: F401

SMALL = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 2, "--learning_rate", "1e-3"]


@pytest.mark.timeout(600)
def test_what_an_aligned_policy_says_is_judged_in_the_browser_and_trains_the_next_reward_model(
    rlhf,  # noqa: F811
    tiny_chat_model: Path,  # noqa: F811
    data: Path,  # noqa: F811
    tmp_path: Path,
    server: Server,
    judge: Judge,
) -> None:
    policy = tmp_path / "dpo"
    rlhf("dpo", "--model", tiny_chat_model, "--train_file", data / "pairs.jsonl", *SMALL, "--output_dir", policy)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join((data / "prompts.jsonl").read_text().splitlines(keepends=True)[:4]))
    sampling = ["--samples_per_prompt", 2, "--max_new_tokens", 12, "--dtype", "float32"]
    rlhf("sample", "--model", policy, "--prompt_file", prompts, "--store", server.store_url, *sampling)

    server.start()
    judge.open("Ada")
    seen = []
    for number, key in enumerate(("1", "0", "t", "9"), start=1):
        left, right = judge.responses
        winner = {"1": left, "0": right, "9": right}.get(key)
        seen.append((winner, {"1": 3.0, "0": 3.0, "9": 2.0}.get(key)))
        judge.press(key)
        judge.saved(number)
    expect(judge.page.locator(".message")).to_contain_text("All done")
    assert server.stop() == 0

    ranked = tmp_path / "ranked.jsonl"
    rlhf("annotate", "export", "--store", server.store_url, "--out", ranked)
    rows, _ = read_comparisons(ranked)
    winners = [row.responses[row.pairs()[0][0]].text if row.pairs() else None for row in rows]
    assert list(zip(winners, [row.strength for row in rows], strict=True)) == seen
    assert {response.policy for row in rows for response in row.responses} == {str(policy)}
    reward = tmp_path / "reward"
    rlhf("reward", "--model", tiny_chat_model, "--train_file", ranked, *SMALL, "--output_dir", reward)
    assert json.loads((reward / "metrics.json").read_text())["num_train"] == 3  # a tie orders nothing
    manifest = json.loads((reward / "manifest.json").read_text())
    assert list(manifest["data"]) == [str(ranked)]
