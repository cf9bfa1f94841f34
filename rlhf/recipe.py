"""Run a recipe, step after step: `rlhf recipe configs/recipes/real_data --output_dir runs/real_data`.

Each step is a command of its own and writes to a folder of its own. The same command again skips what is finished
and goes on where it was stopped, training steps from their newest checkpoint. Settings or inputs that have changed
since stop it: a table of numbers comes from one recipe.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlhf.recipe_file import STEP_COMMANDS, Recipe, Step, read_recipe
from rlhf.recipe_report import write_summary
from rlhf.stages import Finished, refuse_failure, run_stage, set_aside
from rlhf.training.arguments import path_field
from rlhf.training.checkpoints import find_checkpoint
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_folder import MANIFEST, hash_file, hash_model, write_atomically

STATE = "recipe.json"
LOCK = ".lock"
LOCK_SECONDS = 10  # how long a stage whose recipe was killed may take to end
START, RESUME, RESTART, SKIP = "start", "resume", "restart", "skip"


@dataclass
class RecipeArguments:
    """Settings of a recipe's run; the folder of the recipe comes first, as in `rlhf recipe FOLDER`."""

    recipe: str | None = path_field("Folder of the recipe, with recipe.yaml in it.")
    output_dir: str | None = path_field("Folder for the steps' runs and the summary.", output=True)


class Progress:
    """What has been run in an output folder, kept in `recipe.json`: for each step settings, time and memory."""

    def __init__(self, runs: Path):
        self.path = runs / STATE
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self.steps = json.loads(self.path.read_text(encoding="utf-8"))["steps"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path} cannot be read ({error}): choose another --output_dir") from None

    def begin(self, step: Step, settings: dict[str, Any], action: str) -> None:
        """Note that a step starts, before it does; a resumed one keeps the time of its earlier parts."""
        before = self.steps.get(step.name, {}) if action == RESUME else {}
        self.steps[step.name] = {
            "settings": settings,
            "attempts": before.get("attempts", 0) + 1,
            "seconds": before.get("seconds", 0.0),
            "peak_gb": before.get("peak_gb", 0.0),
        }
        self._write()

    def end(self, step: Step, finished: Finished) -> None:
        """Note a step's time and memory, whether it went well or not."""
        row = self.steps[step.name]
        row["seconds"] = round(row["seconds"] + finished.seconds, 1)
        row["peak_gb"] = round(max(row["peak_gb"], finished.peak_gb), 3)
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, json.dumps({"steps": self.steps}, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Check everything, run what is left, write the summary."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--recipe")
    args = parse(RecipeArguments, arguments)
    with exit_on_error():
        if not args.recipe or not args.output_dir:
            raise ValueError("name the recipe's folder and --output_dir: rlhf recipe FOLDER --output_dir FOLDER")
        recipe = read_recipe(args.recipe)
        runs = Path(args.output_dir)
        runs.mkdir(parents=True, exist_ok=True)
        lock = hold(runs)
    with lock:
        run_recipe(recipe, runs, lock.fileno())


def run_recipe(recipe: Recipe, runs: Path, lock: int) -> None:
    """Run the steps that are not finished; every one holds the file descriptor `lock`."""
    with exit_on_error():
        progress = Progress(runs)
        settings = {step.name: step.settings() for step in recipe.steps}
        for step in recipe.steps:
            decide(step, runs, settings[step.name], progress)
    for number, step in enumerate(recipe.steps, start=1):
        with exit_on_error():
            action = decide(step, runs, settings[step.name], progress)  # again: earlier steps may have changed inputs
            if action == SKIP:
                print(f"\n== step {number} of {len(recipe.steps)}, {step.name}: finished before", flush=True)
                continue
            command = prepare(step, runs, action)
            progress.begin(step, settings[step.name], action)
        print(f"\n== step {number} of {len(recipe.steps)}, {step.name}: rlhf {' '.join(command)}", flush=True)
        finished = run_stage(command, held=[lock])
        progress.end(step, finished)
        refuse_failure(step.name, finished)
        print(f"{step.name}: {finished.seconds:.0f} s, peak memory {finished.peak_gb:.2f} GB", flush=True)
    print(f"\n{write_summary(recipe, runs, progress.steps).read_text(encoding='utf-8')}")
    print(f"the numbers are in {runs / 'summary.json'}, with pictures in {runs / 'report.html'}")


def decide(step: Step, runs: Path, settings: dict[str, Any], progress: Progress) -> str:
    """What is to be done for a step: start, resume, restart or skip.

    Raises:
        ValueError: its folder holds something that was not made from these settings and inputs.
    """
    folder = runs / step.name
    if not folder.exists():
        return START
    fix = f"restore that, choose another --output_dir, or rename {folder} to run the step again"
    if step.name not in progress.steps:
        raise ValueError(f"{folder} is there and was not made by this recipe; choose another --output_dir")
    before = progress.steps[step.name]["settings"]
    now = json.loads(json.dumps(settings))
    changed = [
        f"{name} was {before.get(name, 'not set')!r} and is {now.get(name, 'not set')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(f"step {step.name} in {folder} has other settings now: {'; '.join(changed)}; {fix}")
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return RESTART
    made = json.loads(manifest.read_text(encoding="utf-8"))
    problem = changed_input(made)
    if problem:
        raise ValueError(f"step {step.name} in {folder} was made from other inputs: {problem}; {fix}")
    if made["status"] == "finished":
        return SKIP
    return RESUME if STEP_COMMANDS[step.command].resumes and has_checkpoint(folder) else RESTART


def changed_input(manifest: dict[str, Any]) -> str | None:
    """The first data file or model of a run that is not what it was, None when all are; absent ones do not count."""
    for file, digest in manifest["data"].items():
        if Path(file).is_file() and hash_file(file) != digest:
            return f"{file} has changed"
    for role, parent in manifest["parents"].items():
        if Path(parent["path"]).is_dir() and hash_model(parent["path"]) != parent["sha256"]:
            return f"its {role} {parent['path']} has changed"
    return None


def has_checkpoint(folder: Path) -> bool:
    try:
        find_checkpoint(folder, "latest")
    except ValueError:
        return False
    return True


def prepare(step: Step, runs: Path, action: str) -> list[str]:
    """The command line of a step; what an interrupted one left without a checkpoint is set aside."""
    command = step.arguments(runs)
    if action == RESUME:
        return [*command, "--resume_from_checkpoint", "latest"]
    if action == RESTART:
        print(f"\n{step.name} was interrupted before it could be resumed; what it left is in", end=" ")
        print(set_aside(runs / step.name))
    return command


def hold(runs: Path) -> IO[str]:
    """A file that is locked until this process and its stages have ended: one recipe at a time in a folder.

    Raises:
        ValueError: another recipe holds it.
    """
    lock = (runs / LOCK).open("w")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(f"another recipe runs in {runs}: wait for it, or choose another folder") from None
            time.sleep(0.2)


if __name__ == "__main__":
    main()
