"""`rlhf report`: what the page on a run folder shows, and what is refused."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlhf.report import main
from rlhf.training.run_charts import MOST_POINTS, group_of
from rlhf.training.run_folder import RunFolder
from rlhf.training.run_record import ancestors, read_run

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" \u202e'


class Page(HTMLParser):
    """Tags with attributes, headings, and the text shown; every tag that is opened must be closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)
        self.text += data if "svg" not in self.open else ""

    def figures(self) -> list[str]:
        return [str(attributes["aria-label"]) for tag, attributes in self.tags if tag == "svg"]


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ppo_run(path: Path, *, steps: int = 4, response: str = "answer", finish: bool = True, **config: Any) -> RunFolder:
    """A run as PPO writes it: rows, histograms and samples of every step, one prompt at each."""
    parent = path.parent / "base"
    parent.mkdir(exist_ok=True)
    (parent / "config.json").write_text("{}")
    parents, data = {"backbone": str(parent)}, path.parent / "prompts.jsonl"
    data.write_text("{}\n")
    run = RunFolder.open(path, stage="ppo", config=config, parents=parents, data_files=[str(data)], resume=False)
    for step in range(1, steps + 1):
        run.log_histograms(step, {"score": [step, step + 1.0, math.nan], "kl": [0.5, 1.0], "length": [8, 9]})
        run.log({"objective/score": step / 2, "loss": 1 / step, "policy/ratio": 1.0, "time/update": 0.1, "step": step})
        run.log_samples(
            {"step": step, "prompt": prompt(text), "response": f"{response} {step}", "score": step / 2, "kl": 0.25}
            for text in ("the same", f"of step {step}")
        )
    if finish:
        run.finish({"steps": steps, "objective/score": 1.75, "truncation": {"prompts": 8, "prompts_cut": 3}})
    return run


def report(*arguments: object) -> Page:
    main([str(argument) for argument in arguments])
    output = arguments[-1] if "--output" in arguments else Path(str(arguments[0])) / "report.html"
    return Page(Path(str(output)))


def test_a_finished_run_is_shown_whole(tmp_path) -> None:
    ppo_run(tmp_path / "run", learning_rate=3e-5)
    page = report(tmp_path / "run")
    assert page.headings == [
        *("Figures", "Alarms", "Objective", "Losses", "Policy", "Time", "Responses of a step", "Samples"),
        *("Final numbers", "Made from", "Settings and versions"),
    ]
    assert "finished after 4 steps" in page.text
    assert "No monitor raised an alarm." in page.text
    assert "The same at every step: policy/ratio 1." in page.text
    drawn = [caption.partition(".")[0].partition(":")[0] for caption in page.figures()]
    assert drawn == ["objective/score", "loss", "Score", "KL from the reference, nats", "Length, tokens"]
    for shown in ("answer 1", "answer 3", "answer 4", "score 0.50, KL 0.25", "learning_rate", "3.0e-05"):
        assert shown in page.text
    assert "answer 2" not in page.text  # first, middle and last step of the prompt that came again
    assert re.search(r"prompts cut.*83", page.text, flags=re.DOTALL)


def test_hostile_text_of_a_run_stays_text_and_nothing_is_asked_for_from_outside(tmp_path) -> None:
    run = ppo_run(tmp_path / "run", response=HOSTILE, finish=False, note=HOSTILE)
    run.log({HOSTILE: 1.0, "step": 5})
    run.log({HOSTILE: 2.0, "step": 6})
    sample = {"step": 6, "prompt": prompt(HOSTILE), "response": HOSTILE, "score": 1.0}
    run.log_alarm({"step": 6, "monitor": HOSTILE, "severity": "warn", "message": HOSTILE, "sample": sample})
    run.log_alarm({"step": 6, "monitor": "kl", "severity": "warn", "message": "m", "sample": HOSTILE})
    page = report(tmp_path / "run")
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "link", "form"}
    assert page.text.count("<script>alert(1)</script>") > 5
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_alarms_of_a_stopped_run_are_listed_with_their_samples(tmp_path) -> None:
    run = ppo_run(tmp_path / "run", finish=False)
    sample = {"step": 4, "prompt": prompt("which?"), "response": "this one", "score": 9.0, "kl": 30.0}
    run.log_alarm({"step": 3, "monitor": "length", "severity": "warn", "message": "too long", "sample": None})
    run.log_alarm({"step": 4, "monitor": "kl_target", "severity": "stop", "message": "too far", "sample": sample})
    page = report(tmp_path / "run")
    assert "stopped at step 4 by the monitor kl_target" in page.text
    for shown in ("too long", "too far", "which?", "kl_target, step 4", "this one", "score 9.00, KL 30.00"):
        assert shown in page.text


def test_a_run_that_went_on_after_its_stop_is_not_stopped(tmp_path) -> None:
    run = ppo_run(tmp_path / "run", steps=3, finish=False)
    run.log_alarm({"step": 3, "monitor": "kl_target", "severity": "stop", "message": "too far", "sample": None})
    assert read_run(run.path).status == "stopped at step 3 by the monitor kl_target"
    run.log({"loss": 0.5, "step": 4})
    assert read_run(run.path).status == "not finished"


def test_prompts_of_a_log_that_are_text_already_are_shown_as_they_are(tmp_path) -> None:
    run = ppo_run(tmp_path / "run", steps=0)
    run.log_samples({"step": step, "prompt": "A question", "response": f"said {step}"} for step in (1, 2))
    page = report(tmp_path / "run")
    assert "A question" in page.text
    assert "said 1" in page.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path) -> None:
    RunFolder.open(tmp_path / "run", stage="sft", config={}, parents={}, data_files=[], resume=False)
    page = report(tmp_path / "run")
    assert "not finished" in page.text
    assert page.figures() == []


def test_a_run_that_only_measured_shows_its_metrics(tmp_path) -> None:
    run = RunFolder.open(tmp_path / "run", stage="evaluate", config={}, parents={}, data_files=[], resume=False)
    pair = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    (tmp_path / "run" / "judged.jsonl").write_text(json.dumps(pair) + "\n")
    run.finish({"win_rate": {"value": 0.61, "low": 0.52, "high": 0.7, "n": 120}, "judge": "a rule"})
    page = report(tmp_path / "run")
    assert "0.520 to 0.700" in page.text
    assert "Because." in page.text
    (figure,) = page.figures()
    assert figure.startswith("Accuracies and win rates")


def test_several_runs_share_their_charts_and_show_what_differs(tmp_path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    ppo_run(tmp_path / "a" / "ppo", kl_coef=0.05, seed=1)
    ppo_run(tmp_path / "b" / "ppo", kl_coef=0.5, seed=1, response="other")
    page = report(tmp_path / "a" / "ppo", tmp_path / "b" / "ppo", "--output", tmp_path / "both.html")
    assert page.figures().count("objective/score. Mean score of the responses.") == 1
    legends = re.findall(r">([ab]/ppo)</text>", (tmp_path / "both.html").read_text())
    assert legends.count("a/ppo") == legends.count("b/ppo") == 2  # of score and loss
    settings = page.text[page.text.rindex("Settings that differ") :]
    assert "kl_coef0.050.5" in settings
    assert "seed" not in settings
    assert "other 4" in page.text
    assert "answer 4" in page.text
    assert not (tmp_path / "a" / "ppo" / "report.html").exists()


def test_lineage_is_followed_through_the_parents_to_the_data(tmp_path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("{}\n")
    base, reward = tmp_path / "base", tmp_path / "reward"
    base.mkdir()
    (base / "config.json").write_text("{}")
    first = {"stage": "reward", "config": {}, "parents": {"backbone": str(base)}, "data_files": [str(pairs)]}
    RunFolder.open(reward, **first, resume=False)
    (reward / "adapter_config.json").write_text("{}")
    parents = {"backbone": str(base), "reward_model": str(reward)}
    RunFolder.open(tmp_path / "ppo", stage="ppo", config={}, parents=parents, data_files=[], resume=False)
    backbone, model = ancestors(read_run(tmp_path / "ppo").manifest)
    assert (backbone.role, backbone.stage, backbone.ancestors) == ("backbone", None, ())
    assert (model.role, model.stage) == ("reward_model", "reward")
    assert [(one.role, one.path) for one in model.ancestors] == [("data", str(pairs)), ("backbone", str(base))]
    assert f"data: {pairs}" in report(tmp_path / "ppo").text


def test_a_run_that_names_itself_as_its_parent_ends(tmp_path) -> None:
    run = ppo_run(tmp_path / "run")
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["parents"] = {"policy": {"path": str(run.path), "sha256": "0" * 64}}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert report(run.path).text.count(f"policy: {run.path}") < 20


def test_long_runs_are_averaged_for_the_chart(tmp_path) -> None:
    run = RunFolder.open(tmp_path / "run", stage="dpo", config={}, parents={}, data_files=[], resume=False)
    rows = [json.dumps({"loss": float(step % 2), "step": step}) for step in range(1, 1001)]
    (run.path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    page = report(run.path)
    assert page.figures() == ["loss. What is minimised. A point is the mean of several rows."]
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-1\)', (run.path / "report.html").read_text())
    points = re.findall(r"[ML] ", line)
    assert len(points) <= MOST_POINTS


@pytest.mark.parametrize(
    "name, group",
    [
        ("objective/kl", "objective"),
        ("loss", "loss"),
        ("eval_loss", "eval"),
        ("train_loss", "loss"),
        ("lr", "training"),
    ],
)
def test_metrics_are_grouped_by_what_stands_before_the_stroke(name, group) -> None:
    assert group_of(name) == group


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "run is missing"),
        (["{tmp}/nothing"], "nothing holds no run: there is no manifest.json"),
        (["{tmp}/run", "{tmp}/nothing", "--output", "{tmp}/r.html"], "nothing holds no run"),
        (["{tmp}/run", "{tmp}/run2"], "output is missing"),
        (["{tmp}/run", "{tmp}/run"], "names a folder twice"),
        (["{tmp}/run", "--output", "{tmp}/run/metrics.jsonl"], "name a file that ends in .html"),
        ([f"{{tmp}}/{i}" for i in range(6)], "run names 6 folders: a chart tells 5 runs apart"),
        (["{tmp}/damaged"], "damaged/manifest.json cannot be read"),
        (["{tmp}/newer"], "has not schema_version 1"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_status_2(tmp_path, capsys, arguments, said) -> None:
    for name in ("run", "run2"):
        ppo_run(tmp_path / name, steps=1)
    for name, manifest in (("damaged", "{"), ("newer", '{"schema_version": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(manifest)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as exit_info:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert sorted(tmp_path.rglob("*")) == before
