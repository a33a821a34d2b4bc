"""Reshapes as views: which axes of a tensor become which, and whether its memory allows that without a copy."""

from __future__ import annotations

from dataclasses import replace

from .place import Tensor

__all__ = ["reshape_order", "reshaped"]

Groups = list[tuple[list[int], list[int]]]


def groups(old: tuple[int, ...], new: tuple[int, ...]) -> Groups:
    """Runs of old axes that hold the same elements as runs of new axes, as short as possible. Both have as many elements."""
    found: Groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        ins: list[int] = []
        outs: list[int] = []
        have, want = 1, 1
        while True:
            if i < len(old) and (not ins or (bool(outs) and have < want) or j == len(new)):
                have *= old[i]
                ins.append(i)
                i += 1
            else:
                want *= new[j]
                outs.append(j)
                j += 1
            if (have == want and ins and outs) or (i == len(old) and j == len(new)):
                break
        found.append((ins, outs))
    return found


def _by_memory(tensor: Tensor, found: Groups) -> Groups:
    """The groups in the order in which their first elements lie; those of one element first."""
    place = {axis: at for at, axis in enumerate(tensor.order)}

    def first(group: tuple[list[int], list[int]]) -> int:
        return min((place[axis] for axis in group[0] if tensor.shape[axis] > 1), default=-1)

    return sorted(found, key=first)


def reshape_order(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The order of the tensor's axes, as near to its own as possible, in which a reshape is a view."""
    return tuple(axis for ins, _ in _by_memory(tensor, groups(tensor.shape, shape)) for axis in ins)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The same memory under another shape, or None where that needs a copy."""
    found = groups(tensor.shape, shape)
    if tensor.pitch:
        return _reshaped_slice(tensor, shape, found)
    if not tensor.same_memory(reshape_order(tensor, shape)):
        return None
    order = tuple(axis for _, outs in _by_memory(tensor, found) for axis in outs)
    return replace(tensor, shape=shape, order=order)


def _reshaped_slice(tensor: Tensor, shape: tuple[int, ...], found: Groups) -> Tensor | None:
    """Slices keep their shape only."""
    return tensor if shape == tensor.shape else None
