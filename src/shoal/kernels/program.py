"""The column-transform program: how a model's raw features become its estimator's inputs.

A program is an ``int32`` array of shape ``(steps, 7)``; all models of one layout share it, while each
model brings its own numbers: one row of ``transform``, ``float64`` of shape ``(models, slots)``. A step is

    (op, source, target, width, slot, count, feature)

and works on a scratch array ``z`` of shape ``(columns, rows)``: feature-major, a chunk of rows of *one* model.
``slot`` is where the step's numbers start in the model's row of ``transform``. Steps run in order, each with
scikit-learn's own arithmetic (subtract, then divide: folding them would move values across tree thresholds).

============  ==================================================================================================
op            meaning; ``p`` is ``transform[model, slot:]``
============  ==================================================================================================
LOAD          ``z[target] = X[source]``; an infinite value marks the row ``INFINITE_VALUE``
COPY          ``z[target] = z[source]``
IMPUTE        where ``z[target]`` is NaN: ``p[0]``
REPLACE       where ``z[target] == p[0]``: ``p[1]``
SUBTRACT      ``z[target] -= p[0]``
DIVIDE        ``z[target] /= p[0]``
MULTIPLY      ``z[target] *= p[0]``
ADD           ``z[target] += p[0]``
CLIP          ``z[target]`` into ``[p[0], p[1]]``
INDICATOR     ``z[target] = 1 where z[source] is NaN, else 0``
ONEHOT        ``z[target:target+width] = 0``, then 1 in the column of the entry whose value equals ``z[source]``.
              ``p[0]`` is the column of an unknown value (-1: none, -2: the row is ``UNKNOWN_CATEGORY``, or
              ``MISSING_VALUE`` if it is NaN);
              ``count`` entries follow: ascending values ``p[1:1+count]``, then columns ``p[1+count:1+2*count]``
              (-1: dropped, all zero). NaN in ``z`` is looked up as +inf; unused entries hold NaN.
ENCODE        ``z[target]`` = the column of the entry (same numbers as ONEHOT; unknown -1 gives NaN)
FLOAT32       ``z[target]`` rounded to single precision; overflow marks the row ``TOO_LARGE_FOR_FLOAT32``
REQUIRE       NaN in ``z[target]`` marks the row ``MISSING_VALUE``, an overflow to infinity ``INFINITE_VALUE``
============  ==================================================================================================

``width`` is 1 but for ONEHOT. ``feature`` is the raw feature (row of ``X``) that the step's column stems from: the
one that is named when the step marks a row.
"""

import enum


class Op(enum.IntEnum):
    """The operations of a column-transform program. The numbers are part of the block format."""

    LOAD = 0
    COPY = 1
    IMPUTE = 2
    REPLACE = 3
    SUBTRACT = 4
    DIVIDE = 5
    MULTIPLY = 6
    ADD = 7
    CLIP = 8
    INDICATOR = 9
    ONEHOT = 10
    ENCODE = 11
    FLOAT32 = 12
    REQUIRE = 13
