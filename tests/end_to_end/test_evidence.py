"""The evidence's own steps, on the tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.evidence import gold, judge, ranking, reward_models, sentiment_data
from benchmarks.evidence.runs import RESPONSES, RESULT
from rlhf.data.comparisons import Message, read_comparisons, read_prompts, write_comparisons
from rlhf.training.run_folder import read_rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sentiment experiments are made from, a few rows of each."""
    source = tmp_path_factory.mktemp("source")
    words = [("bad", 0), ("good", 1)]
    sentences = [{"text": f"a {word} film number {i}", "label": label} for i in range(40) for word, label in words]
    reviews = [
        {"prefix": f"opening {i}", "continuation": f"it goes on {i}", "label": 0, "split": split}
        for i, split in enumerate(("train", "train", "train", "validation", "test", "test"))
    ]
    for name, rows in (("sentences", sentences), ("held_out", sentences[:8]), ("reviews", reviews)):
        (source / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path_factory.mktemp("sentiment")
    flags = [part for name in ("sentences", "held_out", "reviews") for part in (f"--{name}", f"{source / name}.jsonl")]
    sentiment_data.main([*flags, "--output_dir", str(output)])
    return output


@pytest.fixture(scope="module")
def calibrated(files: Path, reward_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    sentences = [
        f"--{flag}={files}/sentences_{name}.jsonl"
        for flag, name in (("sentences", "calibration"), ("held_out", "heldout"), ("training_sentences", "judge"))
    ]
    judge.main(["calibrate", "--judge", str(reward_model), *sentences, "--output_dir", str(folder)])
    return folder


def test_files_keep_halves_and_splits_apart(files) -> None:
    def texts(name: str) -> set[str]:
        return {response.text for item in read_comparisons([str(files / name)])[0] for response in item.responses}

    calibration = {row["text"] for row in read_rows(files / "sentences_calibration.jsonl")}
    assert texts("preferences.jsonl").isdisjoint(texts("judge.jsonl") | calibration)
    assert texts("judge.jsonl").isdisjoint(calibration)
    prompts = [{p.prompt_id for p in read_prompts([str(files / f"prompts_{s}.jsonl")])[0]} for s in ("train", "test")]
    assert prompts[0].isdisjoint(prompts[1])
    assert [len(ids) for ids in prompts] == [3, 2]


def test_a_policy_is_measured_by_reward_kl_and_score(
    files, calibrated, reward_model, tiny_chat_model, tmp_path
) -> None:
    prompts = ["--prompt_file", str(files / "prompts_test.jsonl"), "--max_new_tokens", "6"]
    judges = ["--judge", str(calibrated), "--reward_model", str(reward_model)]
    judge.main(["measure", "--model", str(tiny_chat_model), *prompts, *judges, "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / RESULT).read_text())
    rows = list(read_rows(tmp_path / RESPONSES))
    assert found["num_responses"] == len(rows) == 4
    assert found["kl"]["value"] == 0.0  # no adapter
    assert found["reward"]["value"] == pytest.approx(sum(row["reward"] for row in rows) / 4)
    assert all(0 < row["reward"] < 1 for row in rows)


def test_no_text_is_neither_positive_nor_negative(calibrated) -> None:
    rewards = judge.Judge.load(calibrated).rewards(["a good film", "", "a bad film"])
    assert rewards[1] == 0.5
    assert all(0 < reward < 1 for reward in rewards)


def test_candidates_are_ranked_by_score(files, reward_model, tmp_path) -> None:
    ranking.main(
        [
            *("--candidates", str(files / "preferences.jsonl"), "--reward_model", str(reward_model)),
            *("--output_file", str(tmp_path / "ranked.jsonl")),
        ]
    )
    for item in read_comparisons([str(tmp_path / "ranked.jsonl")])[0]:
        assert min(item.ranks) == 1
        assert len(item.pairs()) == 6 or len(set(item.ranks)) < 4


def test_reward_models_of_a_fold_stand_beside_the_baselines(rlhf, tiny_chat_model, data, tmp_path) -> None:
    drawn = str(tmp_path / "drawn.jsonl")
    reward_models.main(["draw", "--files", str(data / "pairs.jsonl"), "--most", "20", "--output_file", drawn])
    model = str(tmp_path / "model")
    folds = ["--folds", reward_models.FOLDS, "--fold", 1, "--num_members", reward_models.MEMBERS]
    small = ["--dtype", "float32", "--lora_r", 4, "--max_steps", 2, "--save_strategy", "no"]
    rlhf("reward", "--model", tiny_chat_model, "--train_file", drawn, *folds, *small, "--output_dir", model)
    flags = ["--run", model, "--comparisons", drawn, "--fold", "1", "--output_dir", str(tmp_path)]
    reward_models.main(["compare", *flags])
    found = json.loads((tmp_path / RESULT).read_text())
    assert set(found["accuracy"]) == {"single", "ensemble", "longer wins", "bag of words"}
    assert found["accuracy"]["longer wins"]["value"] == 0.0  # the chosen ones are shorter
    assert found["num_train"] + found["num_held_out"] == 20
    other = [*flags[:4], "--fold", "0", *flags[6:]]
    with pytest.raises(ValueError, match="holds other pairs than fold 0"):
        reward_models.main(["compare", *other])


def test_a_draw_is_written_as_it_was_read(data, tmp_path) -> None:
    reward_models.main(
        ["draw", "--files", str(data / "pairs.jsonl"), "--most", "99", "--output_file", str(tmp_path / "all.jsonl")]
    )
    original = read_comparisons([str(data / "pairs.jsonl")])[0]
    write_comparisons(tmp_path / "again.jsonl", original)
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()


def test_gold_asks_for_the_own_opening_too(files, calibrated, tiny_chat_model, tmp_path, monkeypatch) -> None:
    place = tmp_path / "sentiment"
    (place / "sft").mkdir(parents=True)
    for name, folder in (("sft/model", tiny_chat_model), ("judge", calibrated), ("data", files)):
        (place / name).symlink_to(folder)
    monkeypatch.setenv("EVIDENCE_SENTIMENT", str(place))
    prompts = [[{"role": "user", "content": content}] for content in ("one", "one", "two", "one")]
    texts = ["a good film", "a bad film", "a good film", ""]
    found = gold.gold(prompts, texts)
    rewards = judge.Judge.load(calibrated).rewards(texts)
    reader = gold.Reader.load(place)
    fits = reader.fits([[Message(**m) for m in prompt] for prompt in prompts], texts)
    assert found == pytest.approx([reward * fit for reward, fit in zip(rewards, fits, strict=True)])
    assert fits[3] == 1 / (1 + gold.OTHERS)  # no text tells nothing
    # the softmax over the own opening and the others, each read by itself
    own = reader.chat.encode_prompt([Message(**prompts[2][0])])
    ids = [reader.chat.encode_response(texts[2], finished=False)]
    logprobs = [reader._logprobs(prompt, ids)[0] for prompt in (own, *reader.others)]
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    assert fits[2] == pytest.approx(weights[0] / sum(weights), rel=1e-3)
