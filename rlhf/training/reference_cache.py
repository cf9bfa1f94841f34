"""What the reference says of a response, remembered from its first pass: the reference never changes.

DPO's loss needs of the reference one number per response, the sum of its tokens' log-probabilities. From the second
epoch on, the reference's forward pass, a quarter to a third of a step, is gone.

The last bits of a log-probability depend on what stands beside it in a batch, and epochs batch anew. So what was
remembered is part of a run's state and goes into its checkpoints: a resumed run reads the very numbers that an
uninterrupted one would. It is kept in the first epoch too, whether or not a second is asked for, as a finished run may
be extended.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlhf.engine.packing import Group

KEY_BYTES = 16


class ReferenceCache:
    """Sums of log-probabilities, by the content of a group: the tokens of its prompt and of its responses.

    Each process keeps what it computed itself.

    Args:
        reference: what tells one reference from another, such as the path and the type of its weights.
        device: where the sums are kept, so that neither adding nor reading waits for it.
    """

    def __init__(self, reference: str, device: torch.device | str = "cpu"):
        self.reference = reference
        self._starts: dict[bytes, int] = {}  # where in the sums a group's begin; in the order they were added
        self._sums = torch.zeros(0, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self._starts)

    def missing(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that are not in the cache, each content once, in the order given."""
        by_key = {self._key(group): group for group in groups}
        return [group for key, group in by_key.items() if key not in self._starts]

    def add(self, groups: Sequence[Group], sums: torch.Tensor) -> None:
        """Remember `[responses]` sums in nats of groups that were missing, in float64."""
        start = len(self._sums)
        for group in groups:
            self._starts[self._key(group)] = start
            start += len(group.response_ids)
        assert start == len(self._sums) + len(sums)
        self._sums = torch.cat([self._sums, sums.to(self._sums)])

    def sums(self, groups: Sequence[Group]) -> torch.Tensor:
        """`[responses]` in nats, float64, of groups that are all in the cache, exactly as they were added."""
        index: list[int] = []
        for group in groups:
            start = self._starts[self._key(group)]
            index += range(start, start + len(group.response_ids))
        return self._sums[torch.tensor(index, device=self._sums.device)]

    def save(self, path: Path) -> None:
        """Write what is remembered, exactly; nothing is written of an empty cache."""
        if not self._starts:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = torch.frombuffer(bytearray(b"".join(self._starts)), dtype=torch.uint8).view(-1, KEY_BYTES)
        starts = torch.tensor(list(self._starts.values()))
        save_file({"keys": keys, "starts": starts, "sums": self._sums.cpu()}, path)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote; without a file the cache is empty and is filled anew."""
        tensors = load_file(path) if path.is_file() else {}
        self._starts.clear()
        self._sums = self._sums[:0]
        if tensors:
            keys = tensors["keys"].numpy().tobytes()
            split = (keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES))
            self._starts.update(zip(split, tensors["starts"].tolist(), strict=True))
            self._sums = tensors["sums"].to(self._sums.device)

    def _key(self, group: Group) -> bytes:
        # lengths before ids: what is prompt and what is response changes the value
        numbers = array("q")
        for ids in (group.prompt_ids, *group.response_ids):
            numbers.append(len(ids))
            numbers.extend(ids)
        return hashlib.sha256(self.reference.encode() + b"\0" + numbers.tobytes()).digest()[:KEY_BYTES]
