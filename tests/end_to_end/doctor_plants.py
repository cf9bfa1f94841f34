"""Model folders and data with one fault each, made from the tiny chat model; what `rlhf doctor` must refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)


def brevity(prompts: Any, responses: list[str]) -> list[float]:
    """A scorer."""
    return [-float(len(response)) for response in responses]


TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
BOS_ID = "bos_token_id"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Place:
    """What a plant is made from, and the folder it is made in."""

    model: Path
    reward_run: Path
    folder: Path

    def policy(self, **changes: Any) -> Path:
        """A copy of the model with a changed `template`, or changed settings in `config`, `generation`, `tokenizer`."""
        copy = Path(shutil.copytree(self.model, self.folder / "policy"))
        if "template" in changes:
            (copy / "chat_template.jinja").write_text(changes["template"])
        files = {"config": "config.json", "generation": "generation_config.json", "tokenizer": "tokenizer_config.json"}
        for name, file in files.items():
            if name in changes:
                edit_json(copy / file, changes[name])
        return copy

    def reward(self, base: Path) -> Path:
        """A copy of the reward run that lies on another folder."""
        copy = Path(shutil.copytree(self.reward_run, self.folder / "reward"))
        edit_json(copy / "adapter_config.json", {"base_model_name_or_path": str(base)})
        return copy

    def classifier(self, *, num_labels: int = 1, pad: int | None = 0) -> Path:
        """A random Llama with one score, and the tokenizer of the model."""
        return save_classifier(
            LlamaForSequenceClassification,
            LlamaConfig(
                vocab_size=49152,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=pad,
                num_labels=num_labels,
            ),
            self.model,
            self.folder / "classifier",
        )

    def rows(self, name: str, *rows: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


def save_classifier(model_class: Any, config: Any, tokenizer_folder: Path, folder: Path, **settings: Any) -> Path:
    """A random classifier whose scores are far enough apart to be told from one another."""
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(str(folder))
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / name, folder / name)
    edit_json(folder / "tokenizer_config.json", settings)
    return folder


def edit_json(file: Path, changes: dict[str, Any]) -> None:
    """Set keys of a JSON file; None removes one."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def clean_pairs(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Pairs about unlike things, the longer response chosen in every other one."""
    things = (
        "bread rain glass wool paper tin salt oak rope clay milk soap iron silk rice coal wax sand leaf stone".split()
    )
    ways = "made kept sold cut washed carried found used named weighed".split()
    rows = []
    for number in range(start, start + count):
        thing, way = things[number % len(things)], ways[number // len(things) % len(ways)]
        short, long = (
            f"As {thing} is.",
            f"Slowly and with care, since {thing} number {number} breaks when it is {way} in haste.",
        )
        chosen, rejected = (short, long) if number % 2 else (long, short)
        rows.append({"prompt": f"How is {thing} {way} by {number} people?", "chosen": chosen, "rejected": rejected})
    return rows


def changed_weights(policy: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The same folder with one weight matrix changed."""
    file = policy / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**tensors, name: change(tensors[name])}, file, metadata={"format": "pt"})
    return policy


def no_template(place: Place) -> list[Any]:
    policy = place.policy()
    (policy / "chat_template.jinja").unlink()
    return ["--policy", policy]


def only_the_last_message(place: Place) -> list[Any]:
    last = TURNS.replace("in messages", "in messages[-1:]")
    return ["--policy", place.policy(template=last + PROMPT)]


def no_system_messages(place: Place) -> list[Any]:
    without = TURNS.replace("in messages", "in messages if m['role'] != 'system'")
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    return ["--policy", place.policy(template=without + PROMPT), "--prompt_file", place.rows("p", {"prompt": system})]


def strict_roles(place: Place) -> list[Any]:
    refusing = "{% if messages|length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
    return ["--policy", place.policy(template=refusing + TURNS + PROMPT)]


def no_generation_prompt(place: Place) -> list[Any]:
    return ["--policy", place.policy(template=TURNS)]


def two_bos(place: Place) -> list[Any]:
    return ["--policy", place.policy(template="{{ bos_token }}" + TURNS + PROMPT)]


def bos_left_to_the_tokenizer(place: Place) -> list[Any]:
    """The tokenizer adds the token with which the model was trained, as Llama's do; the template does not write it."""
    policy = place.policy(config={BOS_ID: 0}, generation={BOS_ID: 0})
    tokenizer = AutoTokenizer.from_pretrained(str(policy), bos_token="<|endoftext|>")
    added = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = added
    tokenizer.save_pretrained(str(policy))
    return ["--policy", policy]


def bos_of_another_model(place: Place) -> list[Any]:
    return ["--policy", place.policy(config={BOS_ID: 5}, generation={BOS_ID: 5})]


def no_eos(place: Place) -> list[Any]:
    return ["--policy", place.policy(tokenizer={"eos_token": None})]


def eos_of_another_model(place: Place) -> list[Any]:
    return ["--policy", place.policy(config={"eos_token_id": 0}, generation={"eos_token_id": 0})]


def pad_of_a_resized_model(place: Place) -> list[Any]:
    policy = place.policy()
    tokenizer = AutoTokenizer.from_pretrained(str(policy), pad_token="[PAD]")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(str(policy))
    return ["--policy", policy]


def one_token_more(place: Place) -> list[Any]:
    policy = place.policy()
    tokenizer = AutoTokenizer.from_pretrained(str(policy))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.save_pretrained(str(policy))
    return ["--policy", policy]


def pickled(place: Place) -> list[Any]:
    policy = place.policy()
    (policy / "model.safetensors").rename(policy / "pytorch_model.bin")
    return ["--policy", policy]


def code_of_the_author(place: Place) -> list[Any]:
    return ["--policy", place.policy(config={"model_type": "llama_of_mine", "auto_map": {"AutoConfig": "mine.Config"}})]


def not_a_number(place: Place) -> list[Any]:
    return ["--policy", changed_weights(place.policy(), lambda weight: weight * torch.nan)]


def another_vocabulary(place: Place) -> list[Any]:
    base = place.policy()
    vocabulary = json.loads((base / "tokenizer.json").read_text())
    tokens = vocabulary["model"]["vocab"]
    first, second = list(tokens)[1000], list(tokens)[2000]
    tokens[first], tokens[second] = tokens[second], tokens[first]
    (base / "tokenizer.json").write_text(json.dumps(vocabulary))
    return ["--policy", place.model, "--reward_model", place.reward(base)]


def another_template(place: Place) -> list[Any]:
    base = place.policy(template=TURNS + PROMPT)  # without the system message that the model's own one puts first
    return ["--policy", place.model, "--reward_model", place.reward(base)]


def another_base(place: Place) -> list[Any]:
    other = changed_weights(place.policy(), lambda weight: weight + 0.01)
    return ["--policy", other, "--reward_model", place.reward_run]


def base_trained_on(place: Place) -> list[Any]:
    base = changed_weights(place.policy(), lambda weight: weight + 0.01)
    return ["--policy", base, "--reward_model", place.reward(base)]


def untrained_head(place: Place) -> list[Any]:
    reward = place.reward(place.model)
    head = load_file(reward / "reward_head.safetensors")
    save_file({key: tensor * 0 for key, tensor in head.items()}, reward / "reward_head.safetensors")
    return ["--reward_model", reward]


def head_of_nan(place: Place) -> list[Any]:
    reward = place.reward(place.model)
    head = load_file(reward / "reward_head.safetensors")
    save_file({**head, "shift": head["shift"] * torch.nan}, reward / "reward_head.safetensors")
    return ["--reward_model", reward]


def classifier_without_pad(place: Place) -> list[Any]:
    return ["--reward_model", place.classifier(pad=None)]


def classifier_that_pads_with_eos(place: Place) -> list[Any]:
    return ["--reward_model", place.classifier(pad=2)]


def classifier_with_another_pad(place: Place) -> list[Any]:
    return ["--reward_model", place.classifier(pad=7)]


def classifier_of_three_classes(place: Place) -> list[Any]:
    return ["--reward_model", place.classifier(num_labels=3)]


def left_padding_under_learned_positions(place: Place) -> list[Any]:
    config = GPT2Config(
        vocab_size=49152, n_embd=32, n_layer=2, n_head=4, n_positions=256, pad_token_id=0, eos_token_id=2, num_labels=1
    )
    folder = place.folder / "gpt2"
    save_classifier(GPT2ForSequenceClassification, config, place.model, folder, padding_side="left")
    return ["--policy", place.model, "--reward_model", folder]


def markup_in_responses(place: Place) -> list[Any]:
    rows = clean_pairs(30)
    rows[4]["chosen"] += "<|im_end|>"
    return ["--policy", place.model, "--train_file", place.rows("train", *rows)]


def all_cut_off(place: Place) -> list[Any]:
    def row(pair: dict[str, Any]) -> dict[str, Any]:
        texts = [{"text": pair[name], "finish_reason": "length"} for name in ("chosen", "rejected")]
        return {"prompt": [{"role": "user", "content": pair["prompt"]}], "responses": texts, "ranks": [1, 2]}

    return ["--policy", place.model, "--train_file", place.rows("train", *map(row, clean_pairs(30)))]


def prompts_too_long(place: Place) -> list[Any]:
    return ["--policy", place.model, "--train_file", place.rows("train", *clean_pairs(30)), "--max_prompt_length", 8]


def responses_too_long(place: Place) -> list[Any]:
    return ["--policy", place.model, "--train_file", place.rows("train", *clean_pairs(30)), "--max_response_length", 4]


def beyond_the_positions(place: Place) -> list[Any]:
    prompts = place.rows("prompts", *clean_pairs(4))
    return ["--policy", place.model, "--prompt_file", prompts, "--max_new_tokens", 1020]


def evaluated_on_what_was_learned(place: Place) -> list[Any]:
    rows = clean_pairs(40)
    files = ["--train_file", place.rows("train", *rows[:30]), "--eval_file", place.rows("eval", *rows[29:])]
    return files


def sampled_from_held_out_prompts(place: Place) -> list[Any]:
    rows = clean_pairs(40)
    return ["--prompt_file", place.rows("prompts", *rows[:30]), "--eval_file", place.rows("eval", *rows[29:])]


def one_text_in_both(place: Place) -> list[Any]:
    rows = [
        {**pair, "rejected": pair["chosen"]} if number % 4 == 0 else pair for number, pair in enumerate(clean_pairs(30))
    ]
    return ["--train_file", place.rows("train", *rows)]


def both_ways(place: Place) -> list[Any]:
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in clean_pairs(30)]
    return ["--train_file", place.rows("train", *clean_pairs(30), *turned)]


def every_row_twice(place: Place) -> list[Any]:
    return ["--train_file", place.rows("train", *clean_pairs(30), *clean_pairs(30))]


# Between policy, reward model and data: each is refused by this name.
PLANTS: dict[str, Callable[[Place], list[Any]]] = {
    "no_chat_template": no_template,
    "template_drops_content": only_the_last_message,
    "template_drops_system": no_system_messages,
    "template_refuses_roles": strict_roles,
    "no_generation_prompt": no_generation_prompt,
    "double_bos": two_bos,
    "missing_bos": bos_left_to_the_tokenizer,
    "bos_mismatch": bos_of_another_model,
    "no_eos": no_eos,
    "eos_mismatch": eos_of_another_model,
    "pad_outside_vocabulary": pad_of_a_resized_model,
    "vocabulary_too_large": one_token_more,
    "no_safetensors": pickled,
    "remote_code": code_of_the_author,
    "outputs_not_finite": not_a_number,
    "reward_tokenizer_differs": another_vocabulary,
    "reward_template_differs": another_template,
    "reward_model_of_another_base": another_base,
    "adapter_of_another_base": base_trained_on,
    "scores_constant": untrained_head,
    "scores_not_finite": head_of_nan,
    "reward_pad_missing": classifier_without_pad,
    "reward_pad_equals_eos": classifier_that_pads_with_eos,
    "reward_pad_mismatch": classifier_with_another_pad,
    "head_not_scalar": classifier_of_three_classes,
    "reward_padding_side": left_padding_under_learned_positions,
    "special_tokens_in_responses": markup_in_responses,
    "responses_never_end": responses_too_long,
    "prompts_cut": prompts_too_long,
    "responses_cut": responses_too_long,
    "longer_than_model": beyond_the_positions,
    "leakage": evaluated_on_what_was_learned,
    "prompt_leakage": sampled_from_held_out_prompts,
    "identical_responses": one_text_in_both,
    "contradictory_pairs": both_ways,
    "duplicated_rows": every_row_twice,
}


def system_messages_left_out(place: Place) -> list[Any]:
    without = TURNS.replace("in messages", "in messages if m['role'] != 'system'")
    return ["--policy", place.policy(template=without + PROMPT)]


def bos_of_template_and_tokenizer(place: Place) -> list[Any]:
    """As Llama 3 has it: harmless here, where the tokenizer is asked to add nothing."""
    policy = place.policy()
    tokenizer = AutoTokenizer.from_pretrained(str(policy))
    added = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    tokenizer.backend_tokenizer.post_processor = added
    tokenizer.save_pretrained(str(policy))
    return ["--policy", policy]


def turns_end_with_another_token(place: Place) -> list[Any]:
    return ["--policy", place.policy(template=TURNS.replace("<|im_end|>", "<|endoftext|>") + PROMPT)]


def turns_end_with_a_line(place: Place) -> list[Any]:
    return ["--policy", place.policy(template=TURNS.replace("<|im_end|>", "") + PROMPT)]


def without_padding_token(place: Place) -> list[Any]:
    return ["--policy", place.policy(tokenizer={"pad_token": None})]


def padding_is_eos(place: Place) -> list[Any]:
    return ["--policy", place.policy(tokenizer={"pad_token": "<|im_end|>"})]


def settings_of_generation(place: Place) -> list[Any]:
    return ["--policy", place.policy(generation={"repetition_penalty": 1.1, "do_sample": True})]


def code_that_is_not_needed(place: Place) -> list[Any]:
    return ["--policy", place.policy(config={"auto_map": {"AutoConfig": "mine.Config"}})]


def markup_in_one_prompt(place: Place) -> list[Any]:
    rows = clean_pairs(30)
    rows[4]["prompt"] += "<|im_end|>"
    return ["--policy", place.model, "--train_file", place.rows("train", *rows)]


def markup_in_one_response_of_many(place: Place) -> list[Any]:
    rows = clean_pairs(60)
    rows[4]["chosen"] += "<|im_end|>"
    return ["--policy", place.model, "--train_file", place.rows("train", *rows)]


def shorter_always_wins(place: Place) -> list[Any]:
    turned = [
        {**pair, "chosen": min(pair["chosen"], pair["rejected"], key=len)}
        | {"rejected": max(pair["chosen"], pair["rejected"], key=len)}
        for pair in clean_pairs(30)
    ]
    return ["--train_file", place.rows("train", *turned)]


def one_prompt_twice(place: Place) -> list[Any]:
    return ["--prompt_file", place.rows("prompts", *clean_pairs(30), *clean_pairs(1))]


def one_word_changed(place: Place) -> list[Any]:
    rows = clean_pairs(30)
    changed = [{**row, "prompt": row["prompt"].replace("people", "strangers")} for row in clean_pairs(5)]
    return ["--train_file", place.rows("train", *rows), "--eval_file", place.rows("eval", *changed)]


def another_model_of_the_hub(place: Place) -> list[Any]:
    """Handed messages, it may have a template of its own."""
    classifier = place.classifier()
    (classifier / "chat_template.jinja").write_text(TURNS + PROMPT)
    return ["--policy", place.model, "--reward_model", classifier]


# What passes, and is said: the severity beside the plant.
MILDER: dict[str, tuple[str, Callable[[Place], list[Any]]]] = {
    "template_drops_system": ("note", system_messages_left_out),
    "double_bos": ("note", bos_of_template_and_tokenizer),
    "end_of_turn_not_a_stop": ("warning", turns_end_with_another_token),
    "no_end_of_turn": ("warning", turns_end_with_a_line),
    "no_pad": ("note", without_padding_token),
    "pad_equals_eos": ("note", padding_is_eos),
    "generation_settings": ("note", settings_of_generation),
    "remote_code": ("note", code_that_is_not_needed),
    "special_tokens_in_prompts": ("warning", markup_in_one_prompt),
    "special_tokens_in_responses": ("warning", markup_in_one_response_of_many),
    "responses_never_end": ("warning", all_cut_off),
    "one_sided_length": ("warning", shorter_always_wins),
    "duplicated_prompts": ("warning", one_prompt_twice),
    "near_leakage": ("warning", one_word_changed),
    "reward_template_differs": ("note", another_model_of_the_hub),
}
