"""Which groups share a forward and backward pass, when a batch holds more tokens than one pass may."""

from __future__ import annotations

from collections.abc import Sequence


def token_passes(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Share groups out to as few passes as first fit, longest first, finds (Johnson et al., 1974).

    Args:
        lengths: tokens of each group.
        max_tokens: of one pass; a longer group goes alone. 0 sets no limit.

    Returns:
        For each pass the indices of its groups, ascending; passes in the order of their first group. All groups in
        one pass, as they stood, where they fit.
    """
    if not max_tokens or sum(lengths) <= max_tokens:
        return [list(range(len(lengths)))] if lengths else []
    passes: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fits = next((number for number, room in enumerate(free) if lengths[index] <= room), None)
        if fits is None:
            passes.append([index])
            free.append(max_tokens - lengths[index])
        else:
            passes[fits].append(index)
            free[fits] -= lengths[index]
    return sorted(sorted(indices) for indices in passes)


def split_further(passes: Sequence[Sequence[int]], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Halve the passes with most tokens until there are `count`, or until each holds a single group.

    Processes that gather weights together must all run as many passes as the one that needs most.
    """
    result = [list(indices) for indices in passes]
    while len(result) < count:
        several = [indices for indices in result if len(indices) > 1]
        if not several:
            break
        heaviest = max(several, key=lambda indices: sum(lengths[index] for index in indices))
        result.remove(heaviest)
        half = len(heaviest) // 2
        result += [heaviest[:half], heaviest[half:]]
    return sorted(result)
