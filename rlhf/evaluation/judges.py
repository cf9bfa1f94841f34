"""Judges: who decides which of two responses is better.

A judge is any object with a `compare` method: a rule, a reward model, a language model behind an interface, a
table of human judgments. It is named on the command line as `module:attribute`, so that evaluation imports no
judge itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rlhf.data.comparisons import Message, Response

EXAMPLE = "annotation.simulated:SimulatedAnnotator"


@runtime_checkable
class Judge(Protocol):
    """Compares two responses to one prompt."""

    def compare(self, prompt: Sequence[Message], a: Response, b: Response) -> float:
        """1.0 when `a` is better, 0.0 when `b` is, 0.5 for a tie.

        A judge that is swayed by the order of its arguments should be asked both ways and the two answers
        averaged.
        """
        ...


def load_judge(name: str) -> Judge:
    """The judge named `module:attribute`, e.g. `annotation.simulated:SimulatedAnnotator`.

    The attribute is a judge, or a class or function that makes one without arguments.

    Raises:
        ValueError: the name has another form, the module or attribute is not there, or what is there is no
            judge. An error inside the module itself (a missing dependency, say) is not caught.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module_name.split("."), *attribute.split(".")))):
        raise ValueError(f"judge {name!r} is not of the form module:attribute; try {EXAMPLE}")
    found = _import(module_name, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = ", ".join(sorted(key for key in vars(found) if not key.startswith("_"))) or "nothing"
            raise ValueError(f"judge {name!r}: {module_name} has no {part!r}; it offers {offered}")
        found = getattr(found, part)
    return _made(found, name)


def _import(module_name: str, name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module of that name, or a package above it, is missing. Any other missing module is the judge's
        # own trouble.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"judge {name!r}: there is no module {error.name!r}; check the spelling, or run from the "
            "folder that holds it, or put that folder on PYTHONPATH"
        ) from error


def _made(found: Any, name: str) -> Judge:
    """The judge itself: `found`, or what it makes when called without arguments."""
    if inspect.isclass(found) or (callable(found) and not hasattr(found, "compare")):
        needed = [
            parameter.name
            for parameter in inspect.signature(found).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if needed:
            raise ValueError(
                f"judge {name!r} needs the arguments {', '.join(needed)}; name an object that is ready, "
                "or a function without arguments that makes it"
            )
        found = found()
    if not callable(getattr(found, "compare", None)):
        raise ValueError(f"judge {name!r} is a {type(found).__name__} without a compare method; try {EXAMPLE}")
    judge: Judge = found
    return judge
