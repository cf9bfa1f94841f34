"""Configuration of the entry points: dataclass fields from `--config file.yaml` and `--flag value`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from huggingface_hub import constants
from trl import TrlParser

from rlhf.training.config_file import closest, read_config

Arguments = TypeVar("Arguments")

# Keys of a field's metadata that are ours; the parser below hands all others on to argparse.
PATH_METADATA = ("path", "output")


def parse(argument_class: type[Arguments], argv: Sequence[str] | None = None) -> Arguments:
    """An instance of the dataclass `argument_class` from a config file and the command line, which wins.

    `argv` are the arguments without the program's name; None takes them from `sys.argv`. On an error one
    line "error: ..." goes to standard error and the process exits with code 2.
    """
    switch_off_telemetry()
    with exit_on_error():
        return StrictParser(argument_class).parse(sys.argv[1:] if argv is None else argv)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a user's mistake during set-up into "error: ..." on standard error and exit code 2.

    These are ValueError (DataError among them) and OSError, missing files and full disks; anything else is a
    defect and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def switch_off_telemetry() -> None:
    """Keep TRL and the hub's client from reporting usage, unless the user's environment says otherwise."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        # The client reads the variable when it is imported, which has happened by now.
        constants.HF_HUB_DISABLE_TELEMETRY = True


class StrictParser(TrlParser):
    """TRL's parser without its leniency.

    No abbreviated flags, no `env` section, no `.args` file beside the script; the values of a config file
    are checked against the fields' types, and NaN and infinity are refused. Errors are ValueError.
    """

    def __init__(self, argument_class: type) -> None:
        super().__init__([argument_class], allow_abbrev=False, description=_description(argument_class))
        self.argument_class = argument_class
        self.add_argument("--config", metavar="FILE", help="YAML file of values; flags win over it.")

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
        field = copy.copy(field)
        field.metadata = {  # type: ignore[assignment]
            key: value for key, value in field.metadata.items() if key not in PATH_METADATA
        }
        TrlParser._parse_dataclass_field(parser, field)

    def parse(self, argv: Sequence[str]) -> Any:
        """The dataclass instance for `argv`. Raises ValueError, and SystemExit(0) after `--help`."""
        config = _config_of(argv)
        if config is not None:
            self.set_defaults_with_config(**read_config(config, self.argument_class))
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            raise ValueError(self._explain(unknown))
        del namespace.config
        for name, value in vars(namespace).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"argument --{name}: expected a finite number, found {value}")
        try:
            return self.argument_class(**vars(namespace))
        except ImportError as error:
            raise ValueError(str(error)) from error

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage, which is longer than a screen."""
        raise ValueError(message)

    def _explain(self, unknown: Sequence[str]) -> str:
        flag = next((argument for argument in unknown if argument.startswith("-")), None)
        if flag is None:
            return f"unexpected argument {unknown[0]!r}; values follow a flag, as in --name value"
        flag = flag.split("=", 1)[0]
        return f"unknown flag {flag}{closest(flag, self._option_string_actions)}"


def _description(argument_class: type) -> str | None:
    """First line of the class's own docstring; dataclasses write a signature where there is none."""
    text = (argument_class.__doc__ or "").strip()
    return None if text.startswith(f"{argument_class.__name__}(") else text.partition("\n")[0] or None


def _config_of(argv: Sequence[str]) -> str | None:
    """The file after `--config`, before the other flags are read."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[])
    try:
        files: list[str] = finder.parse_known_args(list(argv))[0].config
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    if len(files) > 1:
        raise ValueError(f"--config is given {len(files)} times ({', '.join(files)}); give one file")
    return files[0] if files else None
