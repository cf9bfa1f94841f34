"""What every stage does before its trainer starts and after it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, read_comparisons
from rlhf.engine.memory import check_last_layers
from rlhf.engine.sources import ModelSource, resolve_model
from rlhf.training import checkpoints
from rlhf.training.arguments import ModelArguments, StageArguments
from rlhf.training.checks.model_files import ModelSettings
from rlhf.training.hub_data import read_files_or_hub
from rlhf.training.run_folder import RunFolder
from rlhf.training.tracking import follow


@dataclass
class Stage:
    """A stage that is ready to start.

    Attributes:
        name: sft, reward, dpo or ppo.
        source: where the backbone is.
        chat: its chat format.
        run: the run folder on the main process, None elsewhere.
        checkpoint: what to resume from, or None.
    """

    name: str
    source: ModelSource
    chat: Chat
    run: RunFolder | None
    checkpoint: str | None

    @property
    def backbone_path(self) -> str:
        """The backbone's name for other tools: an absolute folder, or the name in a catalogue."""
        return str(self.source.backbone) if Path(self.source.name).exists() else self.source.name


def load_chat(source: ModelSource, arguments: ModelArguments) -> Chat:
    """The chat format of a model."""
    return Chat(load_tokenizer(source.backbone), arguments.max_prompt_length, arguments.max_response_length)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder; no code of the model's author is run."""
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def find_backbone(arguments: StageArguments) -> ModelSource:
    """Find the model that a stage trains adapters on, and seed what is drawn from here on.

    Raises:
        ValueError: there is no such model, it is an adapter, or has fewer layers than are to get adapters.
    """
    source = resolve_model(arguments.model)
    if source.adapter is not None:
        raise ValueError(
            f"model is {arguments.model}, an adapter on {source.backbone}: stages start from a backbone; "
            "name that, or merge the adapter first"
        )
    check_last_layers(arguments.lora_last_layers, ModelSettings.read(source.backbone).config.get("num_hidden_layers"))
    # adapters are drawn before a trainer exists that would seed; all runs and processes must draw the same
    set_seed(arguments.seed)
    return source


def open_stage(
    name: str,
    arguments: StageArguments,
    source: ModelSource,
    chat: Chat,
    *,
    data_files: Sequence[str],
    parents: dict[str, Path] | None = None,
) -> Stage:
    """Open the run folder, once everything that can be wrong with the input has been looked at.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: the output folder or the checkpoint is not what it must be.
    """
    checkpoint = None
    if arguments.resume_from_checkpoint:
        found = checkpoints.find_checkpoint(Path(arguments.output_dir), arguments.resume_from_checkpoint)
        checkpoint = str(found)
    run = None
    if PartialState().is_main_process:
        run = RunFolder.open(
            arguments.output_dir,
            stage=name,
            config=plain_config(arguments),
            parents={
                "backbone": str(source.backbone),
                **{name: str(path) for name, path in (parents or {}).items()},
            },
            data_files=[file for file in data_files if Path(file).exists()],
            resume=checkpoint is not None,
        )
        follow(run, arguments.trackers, run_name=arguments.run_name)
    PartialState().wait_for_everyone()
    return Stage(name, source, chat, run, checkpoint)


def finish_stage(stage: Stage, metrics: dict[str, Any]) -> None:
    """Write the final numbers, and what was cut of the data."""
    if stage.run is not None:
        stage.run.finish({**metrics, "truncation": dataclasses.asdict(stage.chat.truncation)})
        print(f"{stage.name}: {stage.chat.truncation}; the run is in {stage.run.path}")
    PartialState().wait_for_everyone()


def load_comparisons(files: Sequence[str], arguments: StageArguments, field: str) -> list[Comparison]:
    """Read judged comparisons from files or hub data sets.

    Raises:
        ValueError: nothing was named, or the data is bad.
    """
    return read_files_or_hub(files, read_comparisons, field=field, skip_bad_lines=arguments.skip_bad_lines)


def plain_config(arguments: StageArguments) -> dict[str, Any]:
    """The arguments as JSON-like values; the run folder leaves keys out."""
    return json.loads(json.dumps(arguments.to_dict(), default=str)) | {"report_to": arguments.trackers or ["none"]}
