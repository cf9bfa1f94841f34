"""Labels: what annotators said of units, as arrays of codes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labels:
    """Labels of units by annotators, as codes: entry v says that `annotator[v]` gave `unit[v]` the label `label[v]`.

    Attributes:
        items: what units belong to.
        units: what is labelled.
        annotators: sorted.
        classes: what the codes in `label` stand for; sorted where they have an order.
        item_of_unit: `[units]`, index into `items`.
        unit, annotator, label: `[votes]`, indices into `units`, `annotators` and `classes`.
    """

    items: tuple[Hashable, ...]
    units: tuple[Hashable, ...]
    annotators: tuple[str, ...]
    classes: tuple[Hashable, ...]
    item_of_unit: np.ndarray
    unit: np.ndarray
    annotator: np.ndarray
    label: np.ndarray

    def counts(self) -> np.ndarray:
        """`[units, classes]`, how many said what."""
        size = len(self.units), len(self.classes)
        return np.bincount(self.unit * size[1] + self.label, minlength=size[0] * size[1]).reshape(size)


def labels_of(triples: Iterable[tuple[Hashable, str, Hashable]], classes: Sequence[Hashable]) -> Labels:
    """Labels from (unit, annotator, label); one annotator may label a unit several times. Each unit is an item.

    Raises:
        ValueError: a label is none of the classes.
    """
    rows = list(triples)
    units = tuple(dict.fromkeys(unit for unit, _, _ in rows))
    annotators = tuple(sorted({annotator for _, annotator, _ in rows}))
    code_of_class = {name: code for code, name in enumerate(classes)}
    for unit, _, label in rows:
        if label not in code_of_class:
            raise ValueError(f"label of {unit!r} is {label!r}; use one of {', '.join(map(repr, classes))}")
    return Labels(
        items=units,
        units=units,
        annotators=annotators,
        classes=tuple(classes),
        item_of_unit=np.arange(len(units)),
        unit=codes([unit for unit, _, _ in rows], units),
        annotator=codes([annotator for _, annotator, _ in rows], annotators),
        label=np.array([code_of_class[label] for _, _, label in rows], dtype=np.int64),
    )


def codes(values: Sequence[Hashable], known: Sequence[Hashable]) -> np.ndarray:
    """The index of each value among those known."""
    code = {value: index for index, value in enumerate(known)}
    return np.array([code[value] for value in values], dtype=np.int64)
