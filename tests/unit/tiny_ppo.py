"""PPO of a tiny random model that speaks in words, in this process, for what takes many rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Message
from rlhf.engine.backbone import Backbone
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.ppo_trainer import PPOTrainer
from rlhf.training.run_folder import RunFolder
from rlhf.training.stopping import RunStopped

WORDS = [f"{consonant}{vowel}" for consonant in "bdfgklmn" for vowel in "aei"]
GOOD = set(WORDS[:8])
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' :' }}{% endif %}"
)


def word_chat() -> Chat:
    """A chat format whose tokens are words."""
    words = ["<unk>", "<s>", "</s>", *WORDS, ":"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Chat(PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **special), 40, 40)


class Rule:
    """A scorer or judge that looks at the words of a response."""

    def __init__(self, rule: Callable[[list[str]], float], name: str = "rule"):
        self.rule, self.name = rule, name

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        return [float(self.rule(text.split())) for text in responses]


def share_of(words: set[str]) -> Callable[[list[str]], float]:
    """Share of a response's words that are among these."""
    return lambda spoken: sum(word in words for word in spoken) / max(1, len(spoken))


def word_trainer(model: Any, folder: Path, scorer: Rule, judge: Rule | None, **settings: Any) -> PPOTrainer:
    """PPO of a new policy on `model`, a language model of `len(WORDS) + 4` tokens."""
    backbone = Backbone(model)
    torch.manual_seed(settings.get("seed", 42))  # adapters are drawn here
    for name in ("policy", "value"):
        backbone.add_adapter(name, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    backbone.add_head("value")
    prompts = [Comparison(prompt=(Message("user", f"{first} {second}"),)) for first in WORDS for second in WORDS[:4]]
    defaults = {
        "scorer": "rule",
        "judge": None if judge is None else "judge",
        "per_device_train_batch_size": 16,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "max_new_tokens": 12,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = PPOArguments(output_dir=str(folder), **{**defaults, **settings})
    folder.mkdir(parents=True, exist_ok=True)
    return PPOTrainer(
        backbone,
        args,
        chat=word_chat(),
        prompts=prompts,
        scorers=[scorer],
        judge=judge,
        run=RunFolder(folder),
        backbone_path="tiny",
    )


def train(trainer: PPOTrainer) -> str | None:
    """Train; returns why the run stopped itself, or None."""
    try:
        trainer.train()
    except RunStopped as stop:
        return str(stop)
    return None


def logged(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of the run's logs."""
    path = folder / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
