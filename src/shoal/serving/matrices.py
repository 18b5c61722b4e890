"""Features side by side in one tensor, as clients send them to a server of one model; here they are taken apart."""

from collections.abc import Collection, Iterator, Sequence

import msgspec

from shoal.errors import InvalidInput
from shoal.serving.messages import Tensor

_SHOWN = 10


def is_matrix(tensor: Tensor, columns: Collection[str]) -> bool:
    """Whether a tensor is none of the columns, and has several of them: ``[rows, columns]``."""
    return len(tensor.shape) == 2 and tensor.shape[1] != 1 and tensor.name not in columns


def taken_apart(matrix: Tensor, features: Sequence[str]) -> Iterator[Tensor]:
    """A matrix as one tensor per feature.

    Parameters
    ----------
    matrix : Tensor
        Of shape ``[rows, features]``.
    features : sequence of str
        What its columns are.

    Raises
    ------
    InvalidInput
        It has more or fewer columns, or its elements do not fill its shape.
    """
    rows, width = matrix.shape
    if width != len(features) or len(matrix.data) != rows * width:
        shown = ", ".join(map(repr, features[:_SHOWN])) + (", ..." if len(features) > _SHOWN else "")
        raise InvalidInput(
            f"there is no input {matrix.name!r}, and as a matrix of all features, which its shape {list(matrix.shape)} "
            f"and its {len(matrix.data)} elements would make it, it has to be [rows, {len(features)}]: {shown}, in "
            "that order"
        )
    for place, name in enumerate(features):
        yield msgspec.structs.replace(matrix, name=name, shape=(rows,), data=matrix.data[place::width])
