"""The evidence's own steps, on the tiny model."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks.evidence import (
    gold,
    judge,
    over_optimisation,
    ranking,
    reward_models,
    sentiment_data,
    small,
    small_data,
    small_model,
)
from benchmarks.evidence.runner import run_one
from benchmarks.evidence.runs import RESPONSES, RESULT, Place, Plan
from rlhf.data.chat import Chat
from rlhf.data.comparisons import Message, read_comparisons, read_prompts, write_comparisons
from rlhf.training.run_folder import read_rows
from rlhf.training.stage import load_tokenizer
from tests.end_to_end.launching import ROOT, launched


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


# ---- on the small model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Runs of the evidence with the small model trained for a moment on a few sentences, and its responses ranked."""
    place = Place(tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("data"))
    (place.data / "eval").mkdir()
    sentences = [
        {"text": f"film number {i} is what people call a {word} one and it ends {word} .", "label": label}
        for i in range(60)
        for word, label in (("bad", 0), ("good", 1))
    ]
    review = {
        "prefix": "it",
        "continuation": "begins . then number 7 is a good film to go on with . end",
        "split": "train",
    }
    rows = {"sentences_train": sentences[:80], "sentences_validation": sentences[80:], "review_prefixes": [review]}
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (place.data / "eval" / f"sentiment_{name}.jsonl").write_text(lines)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("RANKINGS", 6), ("DRAWS", 2), ("HELD_OUT", 4)):
            patched.setattr(small, name, value)
        by_name = {run.name: run for run in small.runs()}
        for name in ("small/data", "small/model", "small/ranked"):
            (place.folder(name)).mkdir(parents=True)
            for command in by_name[name].commands:
                made(place.command(by_name[name], command))
    return place


def made(arguments: list[str]) -> None:
    """A command of the evidence in this process, `rlhf sample` in its own."""
    if arguments[0] == "rlhf":
        launched([sys.executable, "-m", "rlhf.cli", *arguments[1:]], check=True, cwd=ROOT)
        return
    modules = {module.__name__: module for module in (gold, small_data, small_model)}
    modules[arguments[2]].main(arguments[3:])


def test_the_small_model_learns_and_is_a_model_of_the_stages(small_place) -> None:
    found = json.loads((small_place.folder("small/model") / RESULT).read_text())
    assert found["num_train"] == 81
    assert found["held_out_perplexity"] < small_model.VOCABULARY / 20  # that of random weights is the vocabulary's size
    tokenizer = load_tokenizer(small_place.folder("small/model") / "model")
    chat = Chat(tokenizer, 64, 64)
    ids = chat.encode_response("it's a good one , isn't it ?")
    assert chat.encode_response(chat.decode(ids)) == ids
    assert ids[-1] == chat.end_of_turn_id


def test_gold_asks_for_the_own_opening_too(small_place, monkeypatch) -> None:
    folder = small_place.folder("small")
    monkeypatch.setenv(gold.PLACE, str(folder))
    prompts = [[{"role": "user", "content": content}] for content in ("one", "one", "two", "one")]
    texts = ["a good film", "a bad film", "a good film", ""]
    found = gold.gold(prompts, texts)
    messages = [[Message(**message) for message in prompt] for prompt in prompts]
    parts = gold.Gold.load(folder).parts(messages, texts)
    assert found == pytest.approx([a * b for a, b in zip(parts["positive"], parts["fit"], strict=True)])
    assert parts["positive"][0] > 0.5 > parts["positive"][1]
    reader = gold.Reader.load(folder)
    assert parts["fit"][3] == 1 / (1 + small_data.OTHERS)  # no text tells nothing
    # the softmax over the own opening and the others, each read by itself
    own = reader.chat.encode_prompt([Message(**prompts[2][0])])
    ids = [reader.chat.encode_response(texts[2], finished=False)]
    logprobs = [reader._logprobs(prompt, ids)[0] for prompt in (own, *reader.others)]
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    assert parts["fit"][2] == pytest.approx(weights[0] / sum(weights), rel=1e-3)


def test_no_ranking_is_in_two_files_and_ranks_follow_the_sentiment(small_place) -> None:
    folder = small_place.folder("small/ranked")
    files = {
        file.stem: read_comparisons([str(file)])[0] for file in folder.glob("*.jsonl") if file.stem != "candidates"
    }
    assert {name: len(items) for name, items in files.items()} == {"draw_0": 6, "draw_1": 6, "heldout": 4}
    prompts = [item.prompt_id for items in files.values() for item in items]
    assert len(prompts) == len(set(prompts))
    item = files["heldout"][0]
    positive = gold.parts_of(gold.Gold.load(small_place.folder("small")), [item])["positive"]
    assert [positive[better] > positive[worse] for better, worse in item.pairs()] == [True] * 6


@pytest.mark.slow
def test_an_over_optimised_run_is_followed_and_measured(small_place, monkeypatch) -> None:
    monkeypatch.setattr(over_optimisation, "STEPS", 4)
    reward, _, run = over_optimisation.runs()[:3]
    plan = Plan([*small.runs()[:3], reward, run], small_place)
    with (small_place.runs / ".lock").open("w") as lock:
        assert run_one(plan, reward, lock.fileno())
        assert run_one(plan, run, lock.fileno())
    found = small_place.result(run)
    assert run.settings["arm"] == over_optimisation.MINIMUM
    assert [len(found[name]) for name in ("steps", "gold", "proxy", "kl")] == [4] * 4
    assert found["measured"]["last"]["kl"]["value"] > 0
    assert set(found["measured"]) == set(over_optimisation.POLICIES)
    assert found["kept_step"] == found["kept_step_at_alarm"]
    kept = found["measured"]["kept"]
    assert 0 < kept["gold"]["value"] < min(kept["positive"]["value"], kept["fit"]["value"])
