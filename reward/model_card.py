"""The card of an exported reward model: how to call it, and what its class cannot carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from reward.hub_reward_model import SHIFT
from rlhf.engine.sources import HUB_NAME
from rlhf.training.run_folder import CONFIG, MANIFEST, METRICS

EXAMPLE = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER", dtype="auto").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
conversation = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
inputs = tokenizer.apply_chat_template([conversation], return_tensors="pt", return_dict=True, BATCH)
with torch.no_grad():
    scores = model(**inputs).logits[:, 0]  # higher is better
```"""


def card(
    name: str,
    *,
    run: Path,
    shift: float,
    pad_token: str | None,
    end_token: str,
    dtype: str,
    difference: float,
) -> str:
    """The text of README.md.

    Args:
        name: of the exported folder.
        run: the folder of the run.
        shift: what scores of the class lack.
        pad_token: the pad token, if there is one.
        end_token: where the score is read.
        dtype: what the weights are kept in.
        difference: largest one found between the run's scores and those of the export.
    """
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    base = str(config["model"])
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "rlhf"],
    }
    if HUB_NAME.fullmatch(base) and not Path(base).exists():
        front["base_model"] = base
    padding = (
        f"The pad token is `{pad_token}`, which occurs in no conversation and ends none."
        if pad_token
        else "The tokenizer has no token to spare and the model no pad token, so score conversations one by one."
    )
    example = EXAMPLE.replace("FOLDER", name).replace("BATCH", "padding=True" if pad_token else "padding=False")
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}",
        f"A reward model: one number for a conversation that ends with an answer. Trained with LoRA on "
        f"{base if front.get('base_model') else Path(base).name}, the adapter merged.",
        example,
        f"The score is read at `{end_token}`, the end of the last turn, with which the chat template ends. {padding}",
        f"**The shift.** The class has no constant behind its head. The scores that the model was trained and "
        f"normalised to are these plus {shift!r}, which `config.json` has as `{SHIFT}`. Differences of scores, which "
        "order answers, are exact without it.",
        f"Weights are {dtype}, those of the head float32 in the file. On a few conversations its scores, the shift "
        f"added, differ from those of the model as it was trained by at most {difference:.1g}.",
        f"Trained on prompts of up to {config['max_prompt_length']} tokens and answers of up to "
        f"{config['max_response_length']}.",
        *_measured(run),
    ]
    return "\n\n".join(lines) + "\n"


def _measured(run: Path) -> list[str]:
    metrics = json.loads((run / METRICS).read_text(encoding="utf-8")) if (run / METRICS).is_file() else {}
    accuracy = metrics.get("eval_accuracy")
    lines = []
    if isinstance(accuracy, dict) and accuracy.get("value") is not None:
        interval = "" if accuracy.get("low") is None else f" [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
        lines.append(f"Accuracy on held-out pairs: {accuracy['value']:.3f}{interval}, {accuracy['n']} pairs.")
    if (run / MANIFEST).is_file():
        parents = json.loads((run / MANIFEST).read_text(encoding="utf-8")).get("parents", {})
        lines.append(f"SHA-256 of the base model's files: `{parents.get('backbone', {}).get('sha256', 'unknown')}`.")
    return lines
