"""What a recipe is: `recipe.yaml` with its steps in order, and one configuration beside it for each.

title: What this recipe does
steps:
  - name: sft                   # its folder in the output folder
    command: sft
    config: sft.yaml            # the command's settings and data
  - name: reward
    command: reward
    config: reward.yaml
    inputs:                     # settings that name what earlier steps wrote
      model: ${runs}/sft
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.engine.sources import resolve_model
from rlhf.training.config_file import closest, is_path_field, read_config
from rlhf.training.hub_data import is_hub_name
from rlhf.training.parser import StrictParser
from rlhf.training.run_folder import hash_file

RECIPE = "recipe.yaml"
RUNS = "${runs}"


@dataclass(frozen=True)
class StepCommand:
    """A command that a recipe may call.

    Attributes:
        arguments: where its argument class is, `module:class`.
        needed: settings without which it does not start.
        resumes: whether it goes on from a checkpoint.
    """

    arguments: str
    needed: tuple[str, ...]
    resumes: bool = True

    def argument_class(self) -> type:
        module, _, name = self.arguments.partition(":")
        found: type = getattr(importlib.import_module(module), name)
        return found


STEP_COMMANDS = {
    "sft": StepCommand("rlhf.train_sft:SFTArguments", ("train_file",)),
    "reward": StepCommand("reward.trainer:RewardArguments", ("train_file",)),
    "dpo": StepCommand("rlhf.training.dpo_arguments:DPOArguments", ("train_file",)),
    "ppo": StepCommand("rlhf.training.ppo_arguments:PPOArguments", ("prompt_file",)),
    "evaluate": StepCommand("rlhf.evaluate_policy:EvaluateArguments", ("opponent", "prompt_file"), resumes=False),
    "evaluate-reward": StepCommand(
        "reward.evaluate_reward:EvaluateRewardArguments", ("reward_model", "eval_file"), resumes=False
    ),
}


@dataclass(frozen=True)
class Step:
    """One step: a command, its configuration, and settings that name what earlier steps wrote."""

    name: str
    command: str
    config: Path
    inputs: Mapping[str, tuple[str, ...]]

    def arguments(self, runs: Path) -> list[str]:
        """The command line after `rlhf`, with the step's folder in `runs`."""
        inputs = [
            part
            for field, values in self.inputs.items()
            for part in (f"--{field}", *(value.replace(RUNS, str(runs)) for value in values))
        ]
        return [self.command, "--config", str(self.config), *inputs, "--output_dir", str(runs / self.name)]

    def settings(self) -> dict[str, Any]:
        """Everything that decides the step's result: values of its configuration, with data files by content."""
        argument_class = STEP_COMMANDS[self.command].argument_class()
        fields = {field.name: field for field in dataclasses.fields(argument_class)}
        values: dict[str, Any] = {"command": self.command}
        for name, value in read_config(self.config, argument_class).items():
            values[name] = _by_content(value) if is_path_field(fields[name]) else value
        return values | {name: list(texts) for name, texts in self.inputs.items()}


@dataclass(frozen=True)
class Recipe:
    """A recipe's title and its steps in order."""

    path: Path
    title: str
    steps: tuple[Step, ...]


def read_recipe(folder: str | Path) -> Recipe:
    """The recipe in a folder, with all that can be known before its first step checked.

    Raises:
        ValueError: with file, step and field: an unknown key, command or setting, a value of another type, a step
            that uses what no earlier step writes, a missing file or model.
    """
    path = Path(folder) / RECIPE
    content = _load(path)
    _refuse_unknown(content, ("title", "steps"), str(path))
    rows = content.get("steps")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: steps is {rows!r}: give a list of steps, each with name, command and config")
    steps: list[Step] = []
    for number, row in enumerate(rows, start=1):
        step = _parse_step(row, path, number, earlier=[step.name for step in steps])
        _check_step(step, path)
        steps.append(step)
    return Recipe(path, str(content.get("title", path.absolute().parent.name)), tuple(steps))


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is not there: a recipe is a folder with {RECIPE} and one configuration for each step")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping with title and steps")
    return content


def _refuse_unknown(row: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in row:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{closest(str(key), known)}; known are {', '.join(known)}")


def _parse_step(row: Any, path: Path, number: int, earlier: Sequence[str]) -> Step:
    where = f"{path}: step {number}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a mapping with name, command and config, found {row!r}")
    _refuse_unknown(row, ("name", "command", "config", "inputs"), where)
    for key in ("name", "command", "config"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"{where}: {key} is {row.get(key)!r}: give a string")
    name, command = row["name"], row["command"]
    if not re.fullmatch(r"\w[\w-]*", name) or name in earlier:
        reason = "another step has it already" if name in earlier else "it becomes a folder: use letters, digits, _, -"
        raise ValueError(f"{where}: name is {name!r}: {reason}")
    where = f"{path}: step {name}"
    if command not in STEP_COMMANDS:
        known = ", ".join(STEP_COMMANDS)
        raise ValueError(f"{where}: unknown command {command!r}{closest(command, STEP_COMMANDS)}; known are {known}")
    config = path.parent / row["config"]
    if not config.is_file():
        raise ValueError(f"{where}: config {config} is not there")
    return Step(name, command, config, _parse_inputs(row.get("inputs", {}), where, earlier))


def _parse_inputs(inputs: Any, where: str, earlier: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(inputs, dict):
        raise ValueError(f"{where}: inputs is {inputs!r}: give a mapping such as model: {RUNS}/sft")
    parsed = {}
    for field, values in inputs.items():
        texts = tuple(values) if isinstance(values, list) else (values,)
        for text in texts:
            parts = str(text).split("/")
            if parts[0] != RUNS or len(parts) < 2 or ".." in parts:
                raise ValueError(
                    f"{where}: inputs: {field} is {text!r}: write {RUNS}/STEP; other values go into config"
                )
            if parts[1] not in earlier:
                listed = ", ".join(earlier) or "there are none"
                raise ValueError(f"{where}: inputs: {field} is {text!r}: no earlier step has that name ({listed})")
        parsed[str(field)] = texts
    return parsed


def _check_step(step: Step, path: Path) -> None:
    """Parse the step's command line as the command will, and look for the files and the model it names."""
    where = f"{path}: step {step.name}"
    command = STEP_COMMANDS[step.command]
    argument_class = command.argument_class()
    fields = {field.name: field for field in dataclasses.fields(argument_class)}
    config = read_config(step.config, argument_class)
    for name in step.inputs:
        if name not in fields or not is_path_field(fields[name]):
            raise ValueError(f"{where}: inputs: {name!r} is no setting of {step.command} that names a path")
        if name in config:
            raise ValueError(f"{where}: {name} is in inputs and in {step.config}: keep one")
    for name in ("output_dir", "resume_from_checkpoint"):
        if name in config:
            raise ValueError(f"{step.config}: {name} is set: the recipe sets it; remove the line")
    arguments = StrictParser(argument_class).parse(step.arguments(Path("runs"))[1:])
    for name in command.needed:
        if not getattr(arguments, name):
            raise ValueError(f"{where}: {name} is missing: set it in {step.config} or under inputs")
    for name, field in fields.items():
        if name not in step.inputs and is_path_field(field):
            _check_path(name, getattr(arguments, name), where)


def _check_path(name: str, value: Any, where: str) -> None:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str) or not item:
            continue
        if name == "model":
            try:
                resolve_model(item)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        elif not Path(item).exists() and not is_hub_name(item):
            raise ValueError(f"{where}: {name} is {item}: it is not there")


def _by_content(value: Any) -> Any:
    """A path's value with files told by name and hash, so that moved data is the same data and changed data is not."""
    if isinstance(value, list):
        return [_by_content(item) for item in value]
    if isinstance(value, str) and Path(value).is_file():
        return f"{Path(value).name} sha256:{hash_file(value)}"
    return value
