"""A run that a monitor stops: what it says, what it leaves, and how it goes on."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from rlhf import train_ppo
from tests.end_to_end.launching import logged

# The judge rises by .1 a rollout to .5 at the sixth and then falls by .2, while the score climbs on.
SCORERS = """
calls = {"score": 0, "judge": 0}


def climbing(prompts, responses):
    calls["score"] += 1
    return [calls["score"] + len(response) / 1000 for response in responses]


def peaked(prompts, responses):
    calls["judge"] += 1
    number = calls["judge"]
    return [0.1 * (number - 1) if number <= 6 else 0.5 - 0.2 * (number - 6)] * len(responses)
"""


def test_over_optimisation_stops_the_run_with_its_best_policy_and_the_run_goes_on_when_told(
    tiny_chat_model, data, tmp_path, rlhf
) -> None:
    (tmp_path / "planted.py").write_text(SCORERS)
    run = tmp_path / "run"
    arguments = ["--model", tiny_chat_model, "--dtype", "float32", "--lora_r", 4, "--learning_rate", "1e-3"]
    arguments += ["--prompt_file", data / "prompts.jsonl", "--max_new_tokens", 4, "--save_steps", 5]
    arguments += ["--scorer", "planted:climbing", "--judge", "planted:peaked", "--output_dir", run]

    stopped = rlhf("ppo", *arguments, "--max_steps", 12, check=False, cwd=tmp_path)
    assert stopped.returncode == 3, stopped.stderr[-2000:]
    assert "Traceback" not in stopped.stderr
    # the best three are rollouts 4 to 6 or 5 to 7, mean .4; 6 to 8 have .3
    (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("stopped: ")]
    assert line.startswith("stopped: at step 8, over_optimisation: objective/judge_score is 0.3 in the last 3 rollouts")
    assert line.endswith("--resume_from_checkpoint latest --monitor_reactions over_optimisation=warn")
    assert len(logged(run)) == 8
    assert (run / "checkpoint-8" / "checkpoint_manifest.json").is_file()
    (alarm,) = [json.loads(row) for row in (run / "alarms.jsonl").read_text().splitlines()]
    assert (alarm["step"], alarm["monitor"], alarm["severity"]) == (8, "over_optimisation", "stop")
    assert set(alarm["sample"]) >= {"prompt", "response", "score", "judge_score"}

    # rollout 6 counts half, 5 and 7 a quarter each
    kept = {"kept/step": 5, "kept/judge_score": 0.425}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["stopped_by"] == ["over_optimisation"]
    assert {name: pytest.approx(metrics[name]) for name in kept} == kept
    assert "ppo: kept the policy after 5 updates: judge 0.425" in stopped.stdout
    policy = load_file(run / "adapter_model.safetensors")
    after_5 = load_file(run / "checkpoint-5" / "adapter_model.safetensors")
    assert all(tensor.equal(after_5[name]) for name, tensor in policy.items())
    last = load_file(run / "last" / "adapter_model.safetensors")
    assert not all(tensor.equal(last[name]) for name, tensor in policy.items())

    rlhf("ppo", *arguments, "--max_steps", 10, "--resume_from_checkpoint", "latest", "--monitors", "warn", cwd=tmp_path)
    assert [row["step"] for row in logged(run)] == list(range(1, 11))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 10
    assert {name: pytest.approx(metrics[name]) for name in kept} == kept
    policy = load_file(run / "adapter_model.safetensors")
    assert all(tensor.equal(after_5[name]) for name, tensor in policy.items())

    further = ["--resume_from_checkpoint", "latest", "--monitors", "warn", "--keep", "last"]
    rlhf("ppo", *arguments, "--max_steps", 11, *further, cwd=tmp_path)
    assert not (run / "last").exists()
    policy = load_file(run / "adapter_model.safetensors")
    assert not all(tensor.equal(after_5[name]) for name, tensor in policy.items())


def test_a_judge_model_reads_the_rollouts_beside_the_score(
    reward_model, stage_arguments, tmp_path, capsys, monkeypatch
) -> None:
    judge = tmp_path / "judge"
    shutil.copytree(reward_model, judge)
    arguments = [*stage_arguments("ppo"), "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    train_ppo.main([*arguments, "--judge_model", str(judge)])
    for row in logged(tmp_path / "run"):  # it has the weights of the reward model
        assert row["objective/judge_score"] == pytest.approx(row["objective/score"], abs=1e-5)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["parents"]["judge_model"]["path"] == str(judge)
    assert "the last policy is kept: fewer than 3 rollouts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--judge_model", "{reward_model}"], "which is in the score too"),
        (["--judge_model", "nowhere"], "judge_model is nowhere: no finished reward model is there"),
        (["--keep", "best"], "nobody judges"),
        (["--monitor_reactions", "lenght=off"], "monitor_reactions has 'lenght=off'"),
        (["--monitor_limits", "length=long"], "give a number, such as length=1.5"),
        (["--kl_budget", "0"], "kl_budget is 0"),
    ],
)
def test_bad_settings_of_judge_and_monitors_are_refused(
    extra, words, reward_model, stage_arguments, tmp_path, capsys
) -> None:
    extra = [text.format(reward_model=reward_model) for text in extra]
    with pytest.raises(SystemExit) as ended:
        train_ppo.main([*stage_arguments("ppo"), "--output_dir", str(tmp_path / "run"), *extra])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
