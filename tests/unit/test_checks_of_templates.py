"""Chat formats as published model families have them stop no run; what is odd about each is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlhf.training.checks.chat_format import check_chat_format
from rlhf.training.checks.findings import FATAL
from rlhf.training.checks.model_files import ModelSettings
from tests.unit.byte_tokenizer import byte_tokenizer

STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """How a family writes conversations, what its files say, and which findings that gives."""

    special: tuple[str, ...]
    template: str
    named: dict[str, str]
    config: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    adds_bos: bool = False
    findings: tuple[str, ...] = ()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        made = byte_tokenizer(self.special, self.template, **self.named)
        if self.adds_bos:
            bos = self.named["bos_token"]
            made.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, self.special.index(bos))]
            )
        return made

    def settings(self) -> ModelSettings:
        return ModelSettings({"vocab_size": len(self.special) + 256} | self.config, self.generation)


FAMILIES = {
    "llama 3": Family(
        ("<|begin|>", "<|end_of_text|>", "<|head|>", "<|/head|>", "<|eot|>"),
        "{% for m in messages %}{{ bos_token if loop.first }}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}"
        "<|eot|>{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
        {"bos_token": "<|begin|>", "eos_token": "<|eot|>"},
        {"bos_token_id": 0, "eos_token_id": [1, 4]},
        adds_bos=True,
        findings=("no_pad", "double_bos"),
    ),
    "llama 2": Family(
        ("<unk>", "<s>", "</s>"),
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content.strip() }} [/INST]{% else %}"
        " {{ m.content.strip() }} </s>{% endif %}{% endfor %}",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        {"bos_token_id": 1, "eos_token_id": 2},
        adds_bos=True,
        findings=("no_pad", "double_bos"),
    ),
    "qwen 2.5": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        {"bos_token_id": 0, "eos_token_id": 2, "vocab_size": 400},
        {"bos_token_id": 0, "eos_token_id": [2, 0]},
    ),
    "gemma 2": Family(
        ("<pad>", "<eos>", "<bos>", "<turn>", "</turn>"),
        "{{ bos_token }}" + STRICT + "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}",
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        {"bos_token_id": 2, "eos_token_id": 1},
        {"eos_token_id": [1, 4]},
        adds_bos=True,
        findings=("template_drops_system", "double_bos"),
    ),
    "mistral": Family(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        STRICT + "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        {"bos_token_id": 1, "eos_token_id": 2},
        adds_bos=True,
        findings=("no_pad", "template_drops_system", "double_bos"),
    ),
    "phi 3": Family(
        ("<s>", "<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"),
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 300},
        {"eos_token_id": [1, 2, 5]},
        findings=("pad_equals_eos",),
    ),
    # config.json kept the tokens of the base that was distilled into; generation_config.json has those in use
    "deepseek r1 distilled": Family(
        ("<|endoftext|>", "<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"),
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
        "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end|>"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"},
        {"bos_token_id": 0, "eos_token_id": 2},
        {"bos_token_id": 1, "eos_token_id": 2},
        adds_bos=True,
        findings=("pad_equals_eos", "double_bos"),
    ),
}


def names_and_severities(family: Family, **named: Any) -> dict[str, str]:
    found = check_chat_format(family.tokenizer(), family.settings(), field="policy", **named)
    return {finding.name: finding.severity for finding in found}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_published_format_stops_no_run(name: str) -> None:
    found = names_and_severities(FAMILIES[name])
    assert tuple(found) == FAMILIES[name].findings
    assert FATAL not in found.values()


@pytest.mark.parametrize("name", ["gemma 2", "mistral"])
def test_system_messages_in_the_data_stop_one_that_takes_none(name: str) -> None:
    assert names_and_severities(FAMILIES[name], with_system=True)["template_drops_system"] == FATAL


def test_a_token_for_images_needs_no_row_in_a_model_of_text() -> None:
    family = FAMILIES["gemma 2"]
    tokenizer = family.tokenizer()
    beyond = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert tokenizer.convert_tokens_to_ids("<image>") == beyond
    (finding,) = (f for f in check_chat_format(tokenizer, family.settings(), field="policy") if f.severity == FATAL)
    assert finding.name == "vocabulary_too_large"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_specific_special_tokens={"image_token": "<image>"},
        **family.named,
    )
    tokenizer.chat_template = family.template
    assert not [f for f in check_chat_format(tokenizer, family.settings(), field="policy") if f.severity == FATAL]
