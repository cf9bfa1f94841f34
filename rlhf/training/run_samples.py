"""Alarms and samples of runs: what was said, at which step, and what a monitor said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.data.comparisons import read_comparisons
from rlhf.evaluation.report import Sample, Section, figures_table, prose, samples_table
from rlhf.evaluation.sample_history import histories, prompt_text
from rlhf.training.run_charts import Runs
from rlhf.training.run_record import Row, number

NUM_SAMPLES = 8
NUM_ALARMS = 50
JUDGED = "judged.jsonl"


def alarm_section(runs: Runs) -> Section:
    """Alarms in their order, each with what it saw, and the samples that show it."""
    alarms = [(label, alarm) for label, run in runs.items() for alarm in run.alarms]
    if not alarms:
        return Section("Alarms", prose("No monitor raised an alarm."))
    shown = alarms[:NUM_ALARMS]
    rows = [
        [
            *([label] if len(runs) > 1 else []),
            str(alarm.get("step", "")),
            *(str(alarm.get(name, "")) for name in ("monitor", "severity", "message")),
        ]
        for label, alarm in shown
    ]
    header = [*(["run"] if len(runs) > 1 else []), "step", "monitor", "severity", "what it saw"]
    samples = [_alarm_sample(label, alarm, runs) for label, alarm in shown if alarm.get("sample")]
    left = len(alarms) - len(shown)
    more = [prose(f"{left} more are in `alarms.jsonl`.")] if left else []
    return Section("Alarms", figures_table(header, rows), *more, samples_table(samples[:NUM_SAMPLES]))


def _alarm_sample(label: str, alarm: Row, runs: Runs) -> Sample:
    name = f"{alarm.get('monitor')}, step {alarm.get('step')}" + (f", {label}" if len(runs) > 1 else "")
    sample = alarm["sample"]
    if not isinstance(sample, Mapping):
        return Sample(prompt="Sample", answers={name: str(sample)})
    return Sample(_prompt(sample), {name: str(sample.get("response", ""))}, notes={name: _notes(sample)})


def sample_section(runs: Runs) -> Section | None:
    """Answers to the same prompts at several steps, of several runs or of two policies; None where there are none."""
    if len(runs) > 1:
        return _samples_of_runs(runs)
    (run,) = runs.values()
    compared = histories(run.samples, most_prompts=NUM_SAMPLES)
    if compared:
        samples = [
            Sample(
                prompt=history.prompt,
                answers={f"step {row['step']}": str(row["response"]) for row in history.rows},
                notes={f"step {row['step']}": _notes(row) for row in history.rows},
            )
            for history in compared
        ]
        words = "The first prompts that were answered at several steps, the first answer of each step: not picked."
    elif run.samples:
        samples, words = _unrepeated(run.samples), "The first samples of the first and the last step: not picked."
    elif (run.path / JUDGED).is_file():
        samples, words = _judged(run.path / JUDGED), "The first judged pairs: not picked."
    else:
        return None
    return Section("Samples", prose(words), samples_table(samples))


def _unrepeated(rows: Sequence[Row]) -> list[Sample]:
    """Samples of the first and the last step, the answers to one prompt side by side."""
    samples = []
    for step in sorted({rows[0]["step"], rows[-1]["step"]}):
        by_prompt: dict[str, list[Row]] = {}
        for row in (row for row in rows if row["step"] == step):
            by_prompt.setdefault(_prompt(row), []).append(row)
        for prompt, answers in list(by_prompt.items())[: NUM_SAMPLES // 2]:
            named = {f"step {step}, answer {place}": row for place, row in enumerate(answers[:4], start=1)}
            texts = {name: str(row["response"]) for name, row in named.items()}
            samples.append(Sample(prompt, texts, notes={name: _notes(row) for name, row in named.items()}))
    return samples


def _judged(file: Path) -> list[Sample]:
    """Pairs of `rlhf evaluate`: the policy's response first, the opponent's second."""
    samples = []
    for pair in read_comparisons([str(file)])[0][:NUM_SAMPLES]:
        names = ("policy", "opponent")
        answers = {name: response.text for name, response in zip(names, pair.responses, strict=False)}
        better = names[pair.pairs()[0][0]] if pair.pairs() else None
        samples.append(Sample(prompt_text([message.to_dict() for message in pair.prompt]), answers, preferred=better))
    return samples


def _samples_of_runs(runs: Runs) -> Section | None:
    """The last answers of several runs to the prompts that all of them have."""
    newest = {label: {_prompt(row): row for row in run.samples} for label, run in runs.items()}
    shared = [prompt for prompt in next(iter(newest.values())) if all(prompt in rows for rows in newest.values())]
    if not shared:
        return None
    samples = [
        Sample(
            prompt,
            {label: str(rows[prompt]["response"]) for label, rows in newest.items()},
            notes={label: f"step {rows[prompt]['step']}, {_notes(rows[prompt])}" for label, rows in newest.items()},
        )
        for prompt in shared[:NUM_SAMPLES]
    ]
    return Section(
        "Samples",
        prose("The last answers to the first prompts that all runs have: not picked."),
        samples_table(samples),
    )


def _prompt(row: Row) -> str:
    return prompt_text(row["prompt"]) if row.get("prompt") else "Sample"


def _notes(row: Row) -> str:
    words = {"score": "score", "kl": "KL"}
    known = {word: number(row.get(name)) for name, word in words.items()}
    return ", ".join(f"{word} {value:.2f}" for word, value in known.items() if value is not None)
