"""The strict parser: what it takes, what it refuses, and how it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from huggingface_hub import constants
from transformers import TrainingArguments

from rlhf.training.parser import exit_on_error, parse


class Colour(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Toy:
    """Settings of a toy run."""

    model: str = field(default="smollm2-135m", metadata={"path": True, "help": "Name or folder."})
    data: list[str] = field(default_factory=list, metadata={"path": True})
    output_dir: str = field(default="out", metadata={"path": True, "output": True})
    max_steps: int = 10
    learning_rate: float = 1e-3
    clip: float | None = None
    verbose: bool = False
    shuffle: bool = True
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    colour: Colour | str = "red"
    note: str | None = None
    extra: dict | str | None = None


@dataclass
class ToyTraining(TrainingArguments):
    beta: float = field(default=0.1, metadata={"help": "DPO temperature, 0.01 to 0.5."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, found {self.beta}")


@dataclass
class ToyRequired:
    needed: int


@pytest.fixture
def config(tmp_path: Path):
    """Write a config file and return its path."""

    def write(text: str, name: str = "toy.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def failure(capsys: pytest.CaptureFixture[str], argument_class: type, argv: list[str]) -> str:
    """The one line on standard error of a parse that must fail with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(argument_class, argv)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_defaults_stand_without_arguments() -> None:
    assert parse(Toy, []) == Toy()


def test_command_line_wins_over_the_file_and_the_file_over_defaults(config) -> None:
    path = config("max_steps: 3\nlearning_rate: 0.5\n")
    toy = parse(Toy, ["--config", path, "--max_steps", "4"])
    assert (toy.max_steps, toy.learning_rate) == (4, 0.5)
    toy = parse(Toy, ["--max_steps", "4", f"--config={path}"])
    assert (toy.max_steps, toy.learning_rate) == (4, 0.5)


def test_a_value_in_the_file_satisfies_a_required_field(config, capsys) -> None:
    assert parse(ToyRequired, ["--config", config("needed: 1")]).needed == 1
    assert "needed" in failure(capsys, ToyRequired, [])


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),
        ("learning_rate: '2.5e-1'", "learning_rate", 0.25),
        ("learning_rate: 2", "learning_rate", 2.0),
        ("clip: null", "clip", None),
        ("clip: .5", "clip", 0.5),
        ("verbose: yes", "verbose", True),
        ("shuffle: false", "shuffle", False),
        ("loss: hinge", "loss", "hinge"),
        ("colour: green", "colour", "green"),
        ("note: '12'", "note", "12"),
        ("extra: {a: 1}", "extra", {"a": 1}),
    ],
)
def test_values_of_the_right_type_are_taken(config, line: str, name: str, expected: object) -> None:
    value = getattr(parse(Toy, ["--config", config(line)]), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max_steps: 2.5", "an integer"),
        ("max_steps: true", "an integer"),
        ("max_steps: '3'", "an integer"),
        ("max_steps:", "an integer"),
        ("learning_rate: fast", "a finite number"),
        ("learning_rate: .nan", "a finite number"),
        ("learning_rate: nan", "a finite number"),
        ("learning_rate: .inf", "a finite number"),
        ("learning_rate: true", "a finite number"),
        ("clip: [1]", "a finite number or null"),
        ("verbose: 1", "true or false"),
        ("verbose: 'true'", "true or false"),
        ("loss: square", "one of sigmoid, hinge"),
        ("colour: blue", "one of red, green"),
        ("note: 12", "a string or null"),
        ("data: [1]", "a list, each item a string"),
    ],
)
def test_values_of_a_wrong_type_name_file_line_key_value_and_type(config, capsys, line, expected) -> None:
    path = config(f"# a comment\n{line}\n")
    err = failure(capsys, Toy, ["--config", path])
    assert f"{path}:2: {line.split(':')[0]}: expected {expected}, found " in err


def test_an_unquoted_no_is_explained(config, capsys) -> None:
    assert "quotes" in failure(capsys, Toy, ["--config", config("loss: no")])


def test_unknown_keys_name_the_closest_field(config, capsys) -> None:
    err = failure(capsys, Toy, ["--config", config("learning_rat: 1.0")])
    assert "toy.yaml:1" in err
    assert "did you mean 'learning_rate'" in err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("env:\n  KEY: secret\n", "environment variables in the shell"),
        ("max_steps: 1\nmax_steps: 2\n", "given twice"),
        ("- max_steps\n", "expected a YAML mapping"),
        ("", "expected a YAML mapping"),
        ("max_steps: [1\n", "not valid YAML"),
        ("? [a]\n: 1\n", "unknown key"),
        ("max_steps: !!python/name:os.system\n", "not valid YAML"),
    ],
)
def test_malformed_files_are_refused(config, capsys, text: str, found: str) -> None:
    err = failure(capsys, Toy, ["--config", config(text)])
    assert found in err
    assert "toy.yaml" in err


def test_an_env_section_leaves_the_environment_alone(config, capsys) -> None:
    failure(capsys, Toy, ["--config", config("env:\n  TOY_KEY: secret\n")])
    assert "TOY_KEY" not in os.environ


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat; did you mean '--learning_rate'"),
        (["--learning_rat=1"], "did you mean '--learning_rate'"),
        (["--max", "1"], "unknown flag --max"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["--max_steps", "2.5"], "max_steps"),
        (["--max_steps"], "expected one argument"),
        (["--learning_rate", "nan"], "expected a finite number"),
        (["--clip", "inf"], "expected a finite number"),
        (["--loss", "square"], "invalid choice"),
        (["--verbose", "perhaps"], "verbose"),
        (["--config"], "expected one argument"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--config", "a.yaml", "--config=b.yaml"], "2 times"),
        (["--conf", "a.yaml"], "unknown flag --conf"),
    ],
)
def test_wrong_command_lines_are_refused(capsys, argv: list[str], found: str) -> None:
    assert found in failure(capsys, Toy, argv)


@pytest.mark.parametrize(
    ("argv", "verbose", "shuffle"),
    [
        ([], False, True),
        (["--verbose", "--no_shuffle"], True, False),
        (["--verbose", "true", "--shuffle", "false"], True, False),
    ],
)
def test_boolean_flags(argv: list[str], verbose: bool, shuffle: bool) -> None:
    toy = parse(Toy, argv)
    assert (toy.verbose, toy.shuffle) == (verbose, shuffle)


def test_paths_in_a_file_are_relative_to_it(config, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here.jsonl").touch()
    path = config("model: org/name\ndata: [here.jsonl, ./a.jsonl, ../b.jsonl, plain]\noutput_dir: runs/x\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    toy = parse(Toy, ["--config", path])
    assert toy.model == "org/name"
    assert toy.data == [
        str(tmp_path / "here.jsonl"),
        str(tmp_path / "a.jsonl"),
        str(tmp_path.parent / "b.jsonl"),
        "plain",
    ]
    assert toy.output_dir == str(tmp_path / "runs/x")


def test_paths_on_the_command_line_are_left_alone(config) -> None:
    toy = parse(Toy, ["--config", config("output_dir: runs/x"), "--output_dir", "runs/y", "--data", "./z"])
    assert toy.output_dir == "runs/y"
    assert toy.data == ["./z"]


def test_absolute_paths_stay(config) -> None:
    assert parse(Toy, ["--config", config("output_dir: /somewhere/else")]).output_dir == "/somewhere/else"


def test_training_arguments_are_read_from_a_file(config, tmp_path: Path) -> None:
    text = (
        "output_dir: runs/toy\nmax_steps: 3\nlearning_rate: 1e-5\nwarmup_steps: 2\nuse_cpu: true\n"
        "lr_scheduler_type: cosine\neval_strategy: 'no'\nreport_to: [none]\nbeta: 0.2\n"
        "lr_scheduler_kwargs: {num_cycles: 0.5}\n"
    )
    arguments = parse(ToyTraining, ["--config", config(text), "--save_steps", "7"])
    assert arguments.output_dir == str(tmp_path / "runs/toy")
    assert arguments.learning_rate == 1e-5
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.lr_scheduler_kwargs == {"num_cycles": 0.5}
    assert (arguments.max_steps, arguments.save_steps, arguments.beta) == (3, 7, 0.2)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max_steps: 2.5", "expected an integer, found 2.5"),
        ("lr_scheduler_type: cosin", "expected one of linear, cosine"),
        ("eval_strategy: no", "put the word in quotes"),
        ("beta: -1", "beta must be above 0"),
    ],
)
def test_training_arguments_are_checked(config, capsys, text: str, found: str) -> None:
    assert found in failure(capsys, ToyTraining, ["--config", config(text + "\nuse_cpu: true\n")])


@pytest.mark.parametrize("error", [ValueError("bad"), FileNotFoundError("bad"), FileExistsError("bad")])
def test_user_errors_during_set_up_exit_with_code_2(capsys, error: Exception) -> None:
    with pytest.raises(SystemExit) as stopped, exit_on_error():
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: bad\n"


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(KeyError), exit_on_error():
        raise KeyError("defect")


def test_telemetry_is_off_even_when_the_client_was_imported_before(monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    parse(Toy, [])
    assert constants.HF_HUB_DISABLE_TELEMETRY
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_a_choice_of_the_user_about_telemetry_stands(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    parse(Toy, [])
    assert not constants.HF_HUB_DISABLE_TELEMETRY


def test_an_args_file_beside_the_script_is_not_read(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "from dataclasses import dataclass\nfrom rlhf.training.parser import parse\n"
        "@dataclass\nclass Toy:\n    steps: int = 1\nprint(parse(Toy).steps)\n"
    )
    (tmp_path / "run.args").write_text("--steps 9\n")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip().splitlines()[-1:]) == (0, ["1"]), run.stderr


def test_help_lists_fields_with_their_text(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Toy, ["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "Settings of a toy run." in out
    assert "Name or folder." in out
    assert "--config" in out


def test_a_path_may_hold_an_environment_variable(config, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("RLHF_TEST_SPLIT", "train")
    file = config(
        "data: ['${RLHF_TEST_DATA}/${RLHF_TEST_SPLIT}.jsonl', plain.jsonl]\noutput_dir: runs/${RLHF_TEST_SPLIT}"
    )
    arguments = parse(Toy, ["--config", file])
    assert arguments.data == [str(tmp_path / "elsewhere" / "train.jsonl"), "plain.jsonl"]
    assert arguments.output_dir == str(tmp_path / "runs" / "train")


def test_a_path_that_begins_with_a_variable_is_not_relative_to_the_file(config, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RLHF_TEST_DATA", "data")
    file = config("data: '${RLHF_TEST_DATA}/a.jsonl'")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    assert parse(Toy, ["--config", file]).data == [os.path.join("data", "a.jsonl")]


@pytest.mark.parametrize(("value", "words"), [(None, "not set"), ("", "empty")])
def test_an_unset_variable_is_named_with_file_and_field(config, monkeypatch, capsys, value, words) -> None:
    monkeypatch.delenv("RLHF_TEST_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("RLHF_TEST_DATA", value)
    file = config("max_steps: 1\ndata: ['${RLHF_TEST_DATA}/a.jsonl']")
    with pytest.raises(SystemExit) as stopped:
        parse(Toy, ["--config", file])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {file}:2: data: the environment variable RLHF_TEST_DATA is {words}: "
        "it belongs to the path '${RLHF_TEST_DATA}/a.jsonl'\n"
    )


@pytest.mark.parametrize("text", ["${}/a", "${A B}/a", "${1A}/a"])
def test_a_variable_that_cannot_exist_is_refused(config, capsys, text) -> None:
    with pytest.raises(SystemExit):
        parse(Toy, ["--config", str(config(f"data: ['{text}']"))])
    assert "names no environment variable" in capsys.readouterr().err


def test_only_paths_hold_variables(config, monkeypatch) -> None:
    monkeypatch.setenv("RLHF_TEST_DATA", "elsewhere")
    assert parse(Toy, ["--config", str(config("note: '${RLHF_TEST_DATA}'"))]).note == "${RLHF_TEST_DATA}"
