"""A reward model that was exported, read by plain transformers, against the run it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors import safe_open
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    Qwen2Config,
)

from reward import export as export_module
from reward.export import export_reward_model
from reward.export_reward import main
from reward.hub_reward_model import HubRewardModel
from reward.reward_model import RewardModel
from reward.scorers import RunScorer, build_scorers
from rlhf.data.comparisons import Message
from rlhf.engine.adapters import adapter_tensors, head_tensors, write_adapter, write_head
from rlhf.engine.backbone import Backbone
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, CHAT_TOKENS, byte_tokenizer

PROMPTS = [
    (Message("user", "Hi"),),
    (Message("user", "Hi"),),
    (Message("system", "Be brief."), Message("user", "Name a colour, and then tell me why you chose it.")),
    (Message("user", "One?"), Message("assistant", "Two."), Message("user", "Three?")),
]
RESPONSES = ["Hello there, how are you today?", "No", "Blue.", "Four, of course."]


@pytest.fixture
def run(tmp_path, tiny_model, fill_adapter) -> Callable[..., Path]:
    """`run(tokenizer, config_class, dtype=, settings)`: the folder of a reward run whose weights are far from zero."""

    def build(
        tokenizer: Any = None, config_class: type = LlamaConfig, dtype: torch.dtype = torch.float32, **settings: Any
    ) -> Path:
        tokenizer = tokenizer or byte_tokenizer(pad_token="<|im_end|>")
        base, folder = tmp_path / "base", tmp_path / "run"
        model = tiny_model(
            config_class, dtype=dtype, vocab_size=len(tokenizer), max_position_embeddings=512, **settings
        )
        model.save_pretrained(str(base))
        tokenizer.save_pretrained(str(base))
        backbone = Backbone(model)
        backbone.add_adapter(
            "reward", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        fill_adapter(backbone, "reward")
        head = backbone.add_head("reward")
        torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(7))
        torch.nn.init.constant_(head.linear.bias, 0.7)
        head.scale.fill_(0.5)
        head.shift.fill_(-3.25)
        config = backbone.adapter_configs["reward"]
        write_adapter(folder, adapter_tensors(backbone, "reward"), config, backbone_path=str(base))
        write_head(folder, head_tensors(backbone, "reward"), "reward")
        written = {"model": str(base), "dtype": str(dtype).removeprefix("torch."), "quantization": "none"}
        lengths = {"max_prompt_length": 256, "max_response_length": 128}
        (folder / "config.yaml").write_text(yaml.safe_dump(written | lengths))
        accuracy = {"value": 0.75, "low": 0.6, "high": 0.9, "n": 40}
        (folder / "metrics.json").write_text(json.dumps({"eval_accuracy": accuracy}))
        return folder

    return build


def conversations() -> list[list[dict[str, str]]]:
    return [
        [*(message.to_dict() for message in prompt), {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]


def plain_scores(folder: Path, side: str = "right", rows: Sequence[int] = range(4)) -> list[float]:
    """What a user of the card gets, without any of this framework."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype="auto").eval()
    chosen = [conversations()[row] for row in rows]
    padding = tokenizer.pad_token is not None
    inputs = tokenizer.apply_chat_template(chosen, return_tensors="pt", return_dict=True, padding=padding)
    with torch.no_grad():
        return model(**inputs).logits[:, 0].tolist()


def run_scores(folder: Path) -> list[float]:
    return RunScorer("run", folder, batch_size=2).score(PROMPTS, RESPONSES)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config])
def test_plain_transformers_gives_the_runs_scores_less_the_shift(run, tmp_path, config_class, side) -> None:
    folder = run(config_class=config_class)
    export = export_reward_model(folder, tmp_path / "export")
    assert export.shift == pytest.approx(0.7 * 0.5 - 3.25)
    expected = run_scores(folder)
    assert max(expected) - min(expected) > 0.1
    assert [score + export.shift for score in plain_scores(export.folder, side)] == pytest.approx(expected, abs=1e-4)
    assert export.difference < 1e-4


def test_transposed_weights_are_merged_and_exported(run, tmp_path) -> None:
    # GPT-2 keeps W^T; its positions are absolute, so that plain transformers wants right padding
    folder = run(config_class=GPT2Config)
    export = export_reward_model(folder, tmp_path / "export")
    plain = plain_scores(export.folder)
    assert [score + export.shift for score in plain] == pytest.approx(run_scores(folder), abs=1e-4)


def test_the_export_as_a_scorer_gives_the_runs_scores(run, tmp_path) -> None:
    folder = run()
    export_reward_model(folder, tmp_path / "export")
    specs = [str(tmp_path / "export"), f"own={folder}"]
    exported, own = build_scorers(specs, timeout=1.0, retries=0, batch_size=3)
    assert (exported.name, own.name) == ("export", "own")
    assert isinstance(exported, HubRewardModel)
    assert exported.score(PROMPTS, RESPONSES) == pytest.approx(own.score(PROMPTS, RESPONSES), abs=1e-4)


def test_a_run_scores_each_response_under_its_own_prompt(run) -> None:
    folder = run()
    together = run_scores(folder)
    alone = [RunScorer("run", folder, batch_size=1).score([p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_what_is_written_is_weights_tokenizer_and_card(run, tmp_path) -> None:
    export_reward_model(run(), tmp_path / "export")
    files = {path.name for path in (tmp_path / "export").iterdir()}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert files == {"config.json", "model.safetensors", "README.md", *tokenizer}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export", "run"]


def test_the_pad_token_is_one_that_ends_no_turn(run, tmp_path) -> None:
    export = export_reward_model(run(), tmp_path / "export")
    assert export.pad_token == "<|endoftext|>"
    tokenizer = AutoTokenizer.from_pretrained(str(export.folder))
    config = json.loads((export.folder / "config.json").read_text())
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == config["vocab_size"]


@pytest.mark.parametrize(
    "special, pad, chosen",
    [
        ([*CHAT_TOKENS, "<|pad|>"], "<|endoftext|>", "<|endoftext|>"),
        ([*CHAT_TOKENS, "<|pad|>"], "<|im_end|>", "<|pad|>"),
        (["<|im_start|>", "<|im_end|>", "<file_sep>", "<|reserved_3|>"], "<|im_end|>", "<|reserved_3|>"),
        (["<|im_start|>", "<|im_end|>", "<file_sep>"], None, "<file_sep>"),
        (["<|im_start|>", "<|im_end|>"], "<|im_start|>", None),
    ],
)
def test_a_spare_token_becomes_the_pad_token(run, tmp_path, special, pad, chosen) -> None:
    named = {"pad_token": pad} if pad else {}
    export = export_reward_model(run(byte_tokenizer(special, **named)), tmp_path / "export")
    assert export.pad_token == chosen


def test_without_a_spare_token_conversations_are_scored_one_by_one(run, tmp_path) -> None:
    folder = run(byte_tokenizer(["<|im_start|>", "<|im_end|>"], pad_token="<|im_end|>"))
    export = export_reward_model(folder, tmp_path / "export")
    expected = run_scores(folder)
    alone = [plain_scores(export.folder, rows=[row])[0] + export.shift for row in range(4)]
    assert alone == pytest.approx(expected, abs=1e-4)
    # ours pads with a token that no row holds
    assert HubRewardModel("export", str(export.folder)).score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)
    assert "no pad token, so score conversations one by one" in (export.folder / "README.md").read_text()


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        CHAT_TEMPLATE + "\n",
        CHAT_TEMPLATE.replace("'<|im_end|>\n'", "'\n<|im_end|>'"),
        CHAT_TEMPLATE.replace("'<|im_end|>\n'", "'<|im_end|>'"),
        # no special token behind an answer: the end of sequence stands for it
        CHAT_TEMPLATE.replace("'<|im_end|>\n'", "'\n\n'"),
    ],
)
def test_a_conversation_ends_with_the_token_the_score_is_read_at(run, tmp_path, template) -> None:
    tokenizer = byte_tokenizer(pad_token="<|im_end|>", template=template)
    folder = run(tokenizer)
    export = export_reward_model(folder, tmp_path / "export")
    exported = AutoTokenizer.from_pretrained(str(export.folder))
    whole = exported.apply_chat_template(conversations()[2], tokenize=False)
    assert whole.endswith("Blue.<|im_end|>")
    questions = [message.to_dict() for message in PROMPTS[3]]
    for generation in (False, True):
        texts = [
            each.apply_chat_template(questions, tokenize=False, add_generation_prompt=generation)
            for each in (tokenizer, exported)
        ]
        assert texts[0] == texts[1]
    plain = [score + export.shift for score in plain_scores(export.folder)]
    if "'\n\n'" not in template:  # there, turns inside of a conversation end otherwise than the last
        assert plain == pytest.approx(run_scores(folder), abs=1e-4)


def test_a_bfloat16_run_keeps_its_head_in_float32(run, tmp_path) -> None:
    folder = run(dtype=torch.bfloat16)
    export = export_reward_model(folder, tmp_path / "export")
    with safe_open(export.folder / "model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
        dtypes = {key: tensors.get_tensor(key).dtype for key in names}
    assert dtypes.pop("score.weight") == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}
    config = json.loads((export.folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert 0 < export.difference < 1.0


def test_the_card_says_what_the_class_cannot_carry(run, tmp_path) -> None:
    export = export_reward_model(run(), tmp_path / "export")
    text = (export.folder / "README.md").read_text()
    config = json.loads((export.folder / "config.json").read_text())
    assert config["reward_score_shift"] == export.shift
    for said in (repr(export.shift), "Differences of scores, which order answers, are exact", "0.750 [0.600, 0.900]"):
        assert said in text
    assert str(tmp_path) not in text
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "text-classification"


def test_the_example_of_the_card_runs(run, tmp_path, monkeypatch) -> None:
    export = export_reward_model(run(), tmp_path / "export")
    code = (export.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["scores"].shape == (1,)


def test_an_ensemble_is_exported_by_members(run, tmp_path) -> None:
    folder = run()
    for number in (1, 2):
        (folder / f"member_{number}").mkdir()
        for name in ("reward_head.safetensors", "adapter_model.safetensors", "adapter_config.json", "config.yaml"):
            (folder / f"member_{number}" / name).write_bytes((folder / name).read_bytes())
    assert len(RewardModel(folder).roles) == 2
    with pytest.raises(ValueError, match=r"an ensemble of 2: export one member, as .*member_1"):
        export_reward_model(folder, tmp_path / "export")
    export_reward_model(folder / "member_1", tmp_path / "export")


def test_a_folder_that_is_taken_is_left_alone(run, tmp_path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "mine").write_text("keep")
    with pytest.raises(ValueError, match="is there already: name a new folder"):
        export_reward_model(run(), tmp_path / "export")
    assert (tmp_path / "export" / "mine").read_text() == "keep"


def test_what_fails_leaves_nothing_behind(run, tmp_path, monkeypatch) -> None:
    folder = run()

    def full(*_: Any, **__: Any) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(export_module, "card", full)
    with pytest.raises(OSError, match="No space"):
        export_reward_model(folder, tmp_path / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_what_is_no_reward_run_is_refused(run, tmp_path) -> None:
    run()
    with pytest.raises(ValueError, match="holds no finished reward model"):
        export_reward_model(tmp_path / "base", tmp_path / "export")


def test_a_model_without_such_a_class_is_refused(run, tmp_path) -> None:
    folder = run(config_class=GraniteConfig)
    with pytest.raises(ValueError, match="no class for sequence classification for granite"):
        export_reward_model(folder, tmp_path / "export")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{run}"], "required: folder"),
        (["{run}", "{export}", "more"], "unrecognized arguments: more"),
        (["{base}", "{export}"], "holds no finished reward model"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(run, tmp_path, capsys, arguments, message) -> None:
    run()
    capsys.readouterr()
    names = {name: str(tmp_path / name) for name in ("run", "base", "export")}
    with pytest.raises(SystemExit) as caught:
        main([argument.format(**names) for argument in arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "export").exists()
