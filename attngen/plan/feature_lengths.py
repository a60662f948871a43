"""How users name dtypes and feature lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attngen.errors import ArgumentError, DtypeMismatch, ShapeMismatch
from attngen.schedule.tile_schedule import DTYPE_BYTES


def dtype_name(dtype: object) -> str:
    """A legal dtype by its short name.

    Raises:
        DtypeMismatch: listing the legal ones.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise DtypeMismatch(f"{name!r} is no dtype of a kernel", remedy=f"Legal: {', '.join(DTYPE_BYTES)}.")
    return name


def feature_lengths(
    features: Sequence[str], head_dim: int | Sequence[int] | None, known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Feature axis -> length.

    Args:
        features: axes in order of appearance, that of queries and keys first.
        head_dim: one length for all that are not known, or one for each; the last one stands for the rest. None is 128.
        known: lengths of axes that captured tensors have.

    Raises:
        ArgumentError: more lengths than axes, or an illegal one.
    """
    given = dict(known or {})
    asked = [axis for axis in features if axis not in given]
    sizes = (128,) if head_dim is None else tuple(head_dim) if isinstance(head_dim, Sequence) else (head_dim,)
    legal = all(type(size) is int and size >= 1 for size in sizes)
    if not sizes or len(sizes) > max(len(asked), 1) or not legal:
        raise ArgumentError(
            f"head_dim={head_dim!r} does not fit the feature axes {', '.join(asked)}", remedy="Give one length, or one for each axis."
        )
    sizes = (*sizes, *[sizes[-1]] * (len(asked) - len(sizes)))
    given |= dict(zip(asked, sizes, strict=False))
    return {axis: given[axis] for axis in features}


def given_lengths(features: Sequence[str], extents: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """Feature axis -> length, of what a caller gives and what is known.

    Raises:
        ShapeMismatch: one is missing.
    """
    extents = dict(known) | dict(extents)
    missing = [axis for axis in features if axis not in extents]
    if missing:
        raise ShapeMismatch(f"extents lacks {', '.join(missing)}", remedy=f"The feature axes are {', '.join(features)}.")
    return {axis: int(extents[axis]) for axis in features}


def check_features(dims: Iterable[tuple[str, int]]) -> None:
    """Refuse features of a call that are not there.

    Raises:
        ShapeMismatch
    """
    for axis, size in dims:
        if size == 0:
            raise ShapeMismatch(f"the feature axis {axis} has length 0", remedy="Queries, keys and values need at least one feature.")


def check_counts(**given: object) -> None:
    """Refuse what is no number of things.

    Raises:
        ArgumentError
    """
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ArgumentError(f"{name} is {value!r}", remedy="Give a whole number, 0 or more.")
