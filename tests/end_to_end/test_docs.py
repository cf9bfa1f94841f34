"""What the README and the docs say is what runs: their commands, word for word on the embedded model.

That takes minutes. `make test` starts the README's from a tiny model with the same tokenizer.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from rlhf.data.comparisons import read_comparisons
from tests.end_to_end import launching
from tests.end_to_end.launching import ROOT, launched

# Appended to a command, so that it ends soon; what it says itself stays.
SHORTENED = {
    "sft": "--max_steps 1 --gradient_accumulation_steps 1",
    "sample": "--max_new_tokens 12",
    "reward": "--max_steps 1 --gradient_accumulation_steps 1 --normalise_examples 8",
    "ppo": "--max_steps 1 --gradient_accumulation_steps 1 --num_ppo_epochs 1 --max_new_tokens 8",
    "dpo": "--max_steps 1 --gradient_accumulation_steps 1",
    "evaluate": "--max_new_tokens 8",
}
ENVIRONMENT = dict(launching.ENVIRONMENT)


def commands(document: str) -> list[str]:
    """The `rlhf` commands of a document's shell blocks, in order, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("rlhf ")]


def run_all(document: str, folder: Path, model: Path | None = None) -> list[str]:
    """Run a document's commands in a folder that has the repository's configs; their names, in order.

    `model` takes the place of the model that the first stage starts from; later ones build on what it has made.
    """
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")
    names = []
    for line in commands(document):
        _, name, *rest = shlex.split(line)
        command = [sys.executable, "-m", "rlhf.cli", name, *rest, *shlex.split(SHORTENED.get(name, ""))]
        if name == "sft" and model is not None:
            command += ["--model", str(model)]
        if name == "annotate" and rest[0].startswith("--"):
            judge_all(command, folder)
        else:
            launched(command, cwd=folder, env=ENVIRONMENT)
        names.append(f"{name} {rest[0]}" if rest and not rest[0].startswith("--") else name)
    return names


def judge_all(command: list[str], folder: Path) -> None:
    """Open the app as it is said, judge everything in it through its REST interface, and stop it by Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*command, "--port", str(port)], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert client.post("/login", data={"name": "Ada"}).status_code == 303
            while (
                card := client.post("/api/v1/next", json={"client": "tab", "exclude": []}).json()["card"]
            ) is not None:
                first, second, *others = map(len, card["responses"])
                ranks = [1, 2, *(2 for _ in others)] if first >= second else [2, 1, *(2 for _ in others)]
                said = {"client": "tab", "id": str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking"}
                answer = client.post("/api/v1/judgments", json={**said, "ranks": ranks})
                assert answer.status_code == 201, answer.text
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", ["tiny", pytest.param("whole", marks=[pytest.mark.slow, pytest.mark.real_model])])
def test_the_readme_takes_a_newcomer_from_demonstrations_to_a_judged_policy(
    size: str, tiny_chat_model: Path, tmp_path: Path
) -> None:
    ran = run_all("README.md", tmp_path, tiny_chat_model if size == "tiny" else None)
    assert ran == ["sft", "sample", "annotate", "annotate export", "reward", "ppo", "dpo", "evaluate"]
    metrics = json.loads((tmp_path / "runs" / "ppo_vs_sft" / "metrics.json").read_text())
    assert metrics["win_rate"]["n"] == 120
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert snippet is not None
    subprocess.run([sys.executable, "-c", snippet[1]], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_the_tutorial_goes_round_twice(tmp_path: Path) -> None:
    first = ["sft", "sample", "annotate", "annotate export", "reward", "dpo", "ppo", "evaluate"]
    assert run_all("docs/tutorial.md", tmp_path) == [*first, "sample", "annotate", "annotate export", "reward"]
    (second, _), (third, _) = (
        read_comparisons(tmp_path / "runs" / name) for name in ("first/comparisons.jsonl", "second.jsonl")
    )
    assert {response.policy for row in second for response in row.responses} == {"runs/first/sft"}
    assert {response.policy for row in third for response in row.responses} == {"runs/first/ppo"}


def test_the_page_on_annotation_runs_as_it_stands(tmp_path: Path) -> None:
    pair = {"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "candidates.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    ran = run_all("docs/annotation.md", tmp_path)
    assert ran == ["annotate import", "annotate", "annotate export", "annotate export"]
    ((row,), _) = read_comparisons(tmp_path / "runs" / "human_trl.jsonl")
    assert row.responses[0].text == "Because it is so."


def test_the_page_on_deployment_runs_as_it_stands(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "RLHF_PASSWORD", "a long password that nobody guesses")
    assert run_all("docs/annotation_deployment.md", tmp_path) == [
        *("annotate user", "annotate invite", "annotate user"),
        *("annotate backup", "annotate restore", "annotate verify"),
    ]
    assert (tmp_path / "runs" / "restored.db").stat().st_size > 0


def test_the_comparison_in_the_docs_is_read(tmp_path: Path) -> None:
    example = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    assert example is not None
    file = tmp_path / "comparisons.jsonl"
    file.write_text(" ".join(example[1].splitlines()) + "\n", encoding="utf-8")
    (comparison,), _ = read_comparisons([str(file)])
    assert comparison.pairs() == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
