"""The judge of the sentiment experiments: P(positive) of a response, by a classifier no policy was trained against.

python -m benchmarks.evidence.judge calibrate --judge RUN --sentences FILE --held_out FILE --output_dir FOLDER
python -m benchmarks.evidence.judge measure --model RUN --prompt_file FILE --judge FOLDER --output_dir FOLDER

It is a reward adapter trained on half B of the sentences, whose score Platt's method turns into a probability
(Platt 1999) on sentences of half B it was not trained on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.runs import RESPONSES, RESULT, read_json, write_result
from benchmarks.evidence.sentiment_data import JUDGE_PROMPT, Sentence, read_sentences
from reward.reward_model import RewardModel
from rlhf.data.comparisons import Comparison, Response, read_prompts
from rlhf.data.json_lines import write_json_lines
from rlhf.engine.generation import Sampling
from rlhf.engine.policy import Policy
from rlhf.engine.sources import resolve_model
from rlhf.evaluation.metrics import Estimate, bootstrap_mean
from rlhf.training.arguments import DTYPES, ModelArguments, settled_dtype
from rlhf.training.stage import load_chat

MAX_NEW_TOKENS = 24
GROUP = 16  # texts that are judged under one copy of the prompt


@dataclass(frozen=True)
class Judge:
    """P(positive) = sigmoid(slope * score + offset)."""

    model: RewardModel
    slope: float
    offset: float

    @classmethod
    def load(cls, folder: str | Path) -> Judge:
        """The judge that `calibrate` left in a folder."""
        found = read_json(Path(folder) / RESULT)
        return cls(RewardModel(found["judge"], batch_size=2), found["slope"], found["offset"])

    def rewards(self, texts: Sequence[str], *, progress: bool = True) -> list[float]:
        """`[n]` probabilities for `[n]` responses; a response without text is taken as neutral, 0.5."""
        with_text = [text for text in texts if text.strip()]
        scores = iter(judge_scores(self.model, with_text, progress=progress))
        return [self.probability(next(scores)) if text.strip() else 0.5 for text in texts]

    def probability(self, score: float) -> float:
        return 1 / (1 + math.exp(-(self.slope * score + self.offset)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.judge", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    calibrating = commands.add_parser("calibrate", allow_abbrev=False)
    for name in ("judge", "sentences", "held_out", "training_sentences", "output_dir"):
        calibrating.add_argument(f"--{name}", required=True)
    measuring = commands.add_parser("measure", allow_abbrev=False)
    for name in ("model", "prompt_file", "judge", "reward_model", "output_dir"):
        measuring.add_argument(f"--{name}", required=True)
    measuring.add_argument("--max_prompts", type=int, default=200)
    measuring.add_argument("--samples_per_prompt", type=int, default=2)
    measuring.add_argument("--max_new_tokens", type=int, default=MAX_NEW_TOKENS)
    measuring.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    {"calibrate": calibrate, "measure": measure}[arguments.command](arguments)


def calibrate(arguments: argparse.Namespace) -> None:
    """Fit slope and offset, and measure the judge on sentences nobody was trained on."""
    fitted = read_sentences(Path(arguments.sentences))
    held_out = read_sentences(Path(arguments.held_out))
    model = RewardModel(arguments.judge, batch_size=2)
    slope, offset = platt(
        judge_scores(model, [sentence.text for sentence in fitted]), [sentence.label for sentence in fitted]
    )
    judge = Judge(model, slope, offset)
    rewards = judge.rewards([sentence.text for sentence in held_out])
    words = bag_of_words(read_sentences(Path(arguments.training_sentences)))  # what the judge has to beat
    labels = [sentence.label for sentence in held_out]
    write_result(
        Path(arguments.output_dir),
        {
            "judge": arguments.judge,
            "slope": slope,
            "offset": offset,
            "accuracy": accuracy(rewards, labels).to_dict(),
            "accuracy_of_bag_of_words": accuracy(words([sentence.text for sentence in held_out]), labels).to_dict(),
            "calibration_error": calibration_error(rewards, labels),
            "mean_reward": sum(rewards) / len(rewards),
            "num_calibration": len(fitted),
        },
    )


def measure(arguments: argparse.Namespace) -> None:
    """Sample from a policy on held-out prompts: each response's judge reward, KL from the backbone, and score."""
    prompts = read_prompts([arguments.prompt_file])[0][: arguments.max_prompts]
    sampling = Sampling(arguments.samples_per_prompt, arguments.max_new_tokens, 1.0, arguments.seed)
    columns = sampled(arguments.model, prompts, sampling)
    columns["reward"] = Judge.load(arguments.judge).rewards(columns["response"])
    columns["score"] = proxy_scores(arguments.reward_model, prompts, columns["response"], columns["finished"])
    output = Path(arguments.output_dir)
    rows = zip(*columns.values(), strict=True)
    write_json_lines(output / RESPONSES, (dict(zip(columns, row, strict=True)) for row in rows))
    write_result(output, summary(columns))


def sampled(
    model: str, prompts: Sequence[Comparison], sampling: Sampling, *, dtype: str = "auto"
) -> dict[str, Sequence[Any]]:
    """What a policy says, name -> `[responses]`: prompt id, prompt, response, whether it ended, and KL."""
    settings = ModelArguments(model=model, dtype=dtype, max_prompt_length=64, max_response_length=64)
    source = resolve_model(settings.model)
    policy = Policy(source, load_chat(source, settings), dtype=DTYPES[settled_dtype(settings.dtype)])
    samples = policy.sample(prompts, sampling)
    own = [prompt for prompt, group in zip(prompts, samples, strict=True) for _ in group]
    return {
        "prompt_id": [prompt.prompt_id for prompt in own],
        "prompt": [prompt.prompt[-1].content for prompt in own],
        "response": [policy.record(sample, sampling).text for group in samples for sample in group],
        "finished": [sample.finished for group in samples for sample in group],
        "kl": policy.sequence_kl(prompts, samples, temperature=1.0),
    }


def summary(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What a policy's responses come to, with intervals by prompt; `columns`: name -> `[responses]`."""
    groups, texts = columns["prompt_id"], columns["response"]
    means = {name: bootstrap_mean(columns[name], groups=groups).to_dict() for name in ("reward", "kl", "score")}
    return means | {
        "ended": sum(columns["finished"]) / len(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "distinct_bigrams": distinct_bigrams(texts),
        "num_responses": len(texts),
    }


def proxy_scores(
    folder: str, prompts: Sequence[Comparison], texts: Sequence[str], finished: Sequence[bool]
) -> list[float]:
    """The reward model's score of each response, at its end of turn or where it was cut off."""
    responses = [
        Response(text, finish_reason="stop" if ended else "length") for text, ended in zip(texts, finished, strict=True)
    ]
    size = len(responses) // len(prompts)
    groups = [
        replace(prompt, responses=tuple(responses[number * size : (number + 1) * size]))
        for number, prompt in enumerate(prompts)
    ]
    return [score for group in RewardModel(folder).score(groups) for score in group]


def judge_scores(model: RewardModel, texts: Sequence[str], *, progress: bool = True) -> list[float]:
    """Scores of texts alone, at their last word, under one prompt for all, which is computed once a group."""
    groups = [
        Comparison(JUDGE_PROMPT, tuple(Response(text, finish_reason="length") for text in texts[start : start + GROUP]))
        for start in range(0, len(texts), GROUP)
    ]
    return [score for group in model.score(groups, progress=progress) for score in group]


def platt(scores: Sequence[float], labels: Sequence[int]) -> tuple[float, float]:
    """Slope and offset of the logistic regression of labels on scores."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=1e6, max_iter=1000).fit(np.array(scores)[:, None], list(labels))
    return float(regression.coef_[0, 0]), float(regression.intercept_[0])


def bag_of_words(train: Sequence[Sentence], *, ridge: float = 1.0) -> Callable[[Sequence[str]], list[float]]:
    """P(positive) of texts by logistic regression on TF-IDF vectors of labelled sentences, with a ridge penalty."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    regression = LogisticRegression(C=1 / ridge, max_iter=1000)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), regression)
    model.fit([sentence.text for sentence in train], [sentence.label for sentence in train])
    return lambda texts: [float(row[1]) for row in model.predict_proba(list(texts))]


def accuracy(rewards: Sequence[float], labels: Sequence[int]) -> Estimate:
    return bootstrap_mean([float((reward > 0.5) == bool(label)) for reward, label in zip(rewards, labels, strict=True)])


def calibration_error(rewards: Sequence[float], labels: Sequence[int], num_bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (Guo et al. 2017, equation 3)."""
    probability, label = np.array(rewards), np.array(labels, dtype=float)
    bins = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    gaps = [
        (bins == index).mean() * abs(probability[bins == index].mean() - label[bins == index].mean())
        for index in np.unique(bins)
    ]
    return float(sum(gaps))


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Distinct pairs of neighbouring words over all such pairs (Li et al. 2016): low where responses are alike."""
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


if __name__ == "__main__":
    main()
