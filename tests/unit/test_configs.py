"""Every configuration that is shipped is one that its stage takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config import config_args

from reward.trainer import RewardArguments
from rlhf.train_sft import SFTArguments
from rlhf.training.dpo_trainer import DPOArguments
from rlhf.training.parser import parse
from rlhf.training.ppo_arguments import PPOArguments

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGES = {"sft": SFTArguments, "reward": RewardArguments, "dpo": DPOArguments, "ppo": PPOArguments}


@pytest.mark.parametrize("folder", [".", "demo"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_takes_its_configuration(stage, folder, tmp_path) -> None:
    file = CONFIGS / folder / f"{stage}.yaml"
    extra = ["--scorer", "math:sqrt"] if stage == "ppo" and folder == "." else []
    arguments = parse(STAGES[stage], ["--config", str(file), "--output_dir", str(tmp_path), *extra])
    for name, value in yaml.safe_load(file.read_text()).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert getattr(arguments, name) == value


def test_paths_of_the_demo_are_relative_to_its_folder(tmp_path) -> None:
    arguments = parse(PPOArguments, ["--config", str(CONFIGS / "demo" / "ppo.yaml"), "--output_dir", str(tmp_path)])
    assert arguments.prompt_file == [str(CONFIGS / "demo" / "prompts_train.jsonl")]
    assert arguments.model == str(CONFIGS.parent / "runs" / "demo" / "sft")


@pytest.mark.parametrize("file", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_takes_its_configurations(file) -> None:
    config = config_args.load_config_from_file(str(file))
    assert config.mixed_precision == "no"
