"""What a recipe may say: everything that is wrong with it is found before its first step, by file, step and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.recipe_file import STEP_COMMANDS, read_recipe

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "recipes" / "real_data"
REWARD = "  - {name: reward, command: reward, config: reward.yaml}\n"
ACCURACY = "  - {name: acc, command: evaluate-reward, config: acc.yaml, inputs: {reward_model: '${runs}/reward'}}\n"


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe of a reward model and its evaluation, with other text in place of what is named."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')

    def write(steps: str = f"steps:\n{REWARD}{ACCURACY}", reward: str = "", accuracy: str = "") -> Path:
        (tmp_path / "recipe.yaml").write_text(steps)
        (tmp_path / "reward.yaml").write_text(f"model: ./model\ntrain_file: pairs.jsonl\n{reward}")
        (tmp_path / "acc.yaml").write_text(accuracy or "eval_file: pairs.jsonl\n")
        return tmp_path

    return write


def test_steps_become_commands_with_the_outputs_of_earlier_ones(recipe) -> None:
    folder = recipe()
    reward, accuracy = read_recipe(folder).steps
    runs = Path("runs/real")
    assert reward.arguments(runs) == f"reward --config {folder}/reward.yaml --output_dir runs/real/reward".split()
    assert accuracy.arguments(runs) == [
        *("evaluate-reward", "--config", f"{folder}/acc.yaml"),
        *("--reward_model", "runs/real/reward", "--output_dir", "runs/real/acc"),
    ]


def test_data_counts_by_content_and_not_by_place(recipe, tmp_path) -> None:
    folder = recipe()
    before = read_recipe(folder).steps[0].settings()
    # SHA-256 of the line that the fixture writes, by `sha256sum`
    digest = "7a82d35eb65697feb8b069d33d1a5b936fd2b73a3beaf2b2883e37e910345d2a"
    assert before["train_file"] == [f"pairs.jsonl sha256:{digest}"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "pairs.jsonl").write_bytes((folder / "pairs.jsonl").read_bytes())
    (folder / "reward.yaml").write_text("model: ./model\ntrain_file: elsewhere/pairs.jsonl\n")
    assert read_recipe(folder).steps[0].settings() == before
    (moved / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "c", "rejected": "b"}\n')
    assert read_recipe(folder).steps[0].settings() != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "[1]"}, "expected a mapping with title and steps"),
        ({"steps": "steps: ["}, "is not valid YAML"),
        ({"steps": "steps: []"}, "give a list of steps"),
        ({"steps": f"step:\n{REWARD}"}, "unknown key 'step'; did you mean 'steps'?"),
        ({"steps": "steps:\n  - reward\n"}, "step 1: expected a mapping"),
        ({"steps": "steps:\n  - {name: a, command: reward}\n"}, "step 1: config is None"),
        ({"steps": "steps:\n  - {name: a, command: reward, config: reward.yaml, input: {}}\n"}, "unknown key 'input'"),
        ({"steps": "steps:\n  - {name: a/b, command: reward, config: reward.yaml}\n"}, "it becomes a folder"),
        ({"steps": f"steps:\n{REWARD}{REWARD}"}, "step 2: name is 'reward': another step has it already"),
        ({"steps": "steps:\n  - {name: a, command: rewrad, config: reward.yaml}\n"}, "did you mean 'reward'?"),
        ({"steps": "steps:\n  - {name: a, command: demo, config: reward.yaml}\n"}, "unknown command 'demo'"),
        ({"steps": "steps:\n  - {name: a, command: reward, config: absent.yaml}\n"}, "absent.yaml is not there"),
        ({"steps": f"steps:\n{ACCURACY}{REWARD}"}, "no earlier step has that name (there are none)"),
        ({"steps": f"steps:\n{REWARD}" + ACCURACY.replace("${runs}/", "")}, "write ${runs}/STEP"),
        ({"steps": f"steps:\n{REWARD}" + ACCURACY.replace("runs}/", "runs}/../")}, "write ${runs}/STEP"),
        ({"steps": f"steps:\n{REWARD}" + ACCURACY.replace("reward_model", "batch_size")}, "that names a path"),
        ({"accuracy": "eval_file: pairs.jsonl\nreward_model: x\n"}, "is in inputs and in"),
        ({"accuracy": "batch_size: 4\n"}, "step acc: eval_file is missing"),
        ({"reward": "output_dir: ./x\n"}, "output_dir is set: the recipe sets it"),
        ({"reward": "learning_rat: 1\n"}, "did you mean 'learning_rate'?"),
        ({"reward": "max_steps: 2.5\n"}, "max_steps: expected an integer, found 2.5"),
        ({"reward": "lora_r: 0\n"}, "lora_r is 0: it must be at least 1"),
        ({"reward": "eval_file: absent.jsonl\n"}, "step reward: eval_file is absent.jsonl: it is not there"),
    ],
)
def test_what_is_wrong_is_named(recipe, change, words) -> None:
    with pytest.raises(ValueError) as refused:
        read_recipe(recipe(**change))
    assert words in str(refused.value)


def test_a_model_that_is_none_is_named_with_its_step(recipe) -> None:
    folder = recipe()
    (folder / "reward.yaml").write_text("model: nonesuch\ntrain_file: pairs.jsonl\n")
    with pytest.raises(ValueError, match="step reward: model 'nonesuch' is not known"):
        read_recipe(folder)


def test_a_folder_without_a_recipe_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml is not there"):
        read_recipe(tmp_path)


def test_a_shipped_recipe_names_its_variable(monkeypatch) -> None:
    monkeypatch.delenv("RLHF_REAL_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"sft\.yaml:3: train_file: the environment variable RLHF_REAL_DATA is not set"
    ):
        read_recipe(SHIPPED)


def test_the_shipped_recipe_is_one(monkeypatch, tmp_path) -> None:
    sets = ("human_chat", "hh_harmless", "alpacaeval_gpt4")
    files = [f"preference/{name}/{split}.jsonl" for name in sets for split in ("train", "validation")]
    for name in [*files, "sft/mixed_train.jsonl", "prompts/train.jsonl", "prompts/validation.jsonl"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    monkeypatch.setenv("RLHF_REAL_DATA", str(tmp_path))
    monkeypatch.setattr("rlhf.recipe_file.resolve_model", lambda name: None)  # the embedded model need not be here
    recipe = read_recipe(SHIPPED)
    assert [step.command for step in recipe.steps][:2] == ["sft", "reward"]
    assert {step.command for step in recipe.steps} == set(STEP_COMMANDS)
