"""The hash of a segment key, and the search for it: compiled passes over many keys at once.

The hash is XXH64 with seed 0 (Yann Collet's specification, https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md)
over the key's canonical bytes (see :mod:`shoal.table.keys`). It is spelled out here, with golden vectors in the
tests, because Python's and Polars' own hashes change between versions and processes, and this one is on disk.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba hands an intrinsic its context itself, which the types of the decorator do not say.
# mypy: disable-error-code="call-arg,var-annotated,unreachable"

import numpy as np
from llvmlite import ir
from numba import types as nt
from numba.extending import intrinsic

from shoal.kernels.compile import I32_1, I64, I64_1, U8_1, U64_1, U64_2, array, device, kernel

PRIME_1 = np.uint64(0x9E3779B185EBCA87)
PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
PRIME_3 = np.uint64(0x165667B19E3779F9)
PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
PRIME_5 = np.uint64(0x27D4EB2F165667C5)

#: ``place`` of a key that a newer segment has taken out of the fleet.
REMOVED = np.uint64(0xFFFFFFFFFFFFFFFF)
ROW_MASK = np.uint64(0xFFFFFFFF)
BLOCK_SHIFT = np.uint64(32)

#: Columns of an index segment's entries.
HASH, PLACE, START, STOP = 0, 1, 2, 3

#: Keys that are looked up side by side.
STRIDE = 32

#: Bytes behind a key that writing it may overwrite: words are written whole.
SLACK = 16

#: Longest text that an Arrow view holds itself.
INLINE = 12

#: Tags of values in a key, see :mod:`shoal.table.keys`.
LEFT_OUT, TEXT, INTEGER, BOOLEAN, DATE, MISSING = range(6)

#: What :func:`write_keys` is told of a key column.
TAG, VALUES, VALID, FIRST_BUFFER = 0, 1, 2, 3

#: What a search writes for a key it did not meet, and for one that was removed.
ABSENT = -1
GONE = -2

_U8_OUT = array(nt.uint8, 1, writable=True)
_I64_OUT = array(nt.int64, 1, writable=True)
_U64_OUT = array(nt.uint64, 1, writable=True)


@device
def _rotate(x, bits):
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@device
def _word(data, at):
    """Eight bytes, little-endian. The index is unsigned, so it cannot wrap, and LLVM makes one load of it."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(data[np.uint64(at) + np.uint64(i)]) << np.uint64(8 * i)
    return word


@device
def _round(accumulator, word):
    return _rotate(accumulator + word * PRIME_2, 31) * PRIME_1


@device
def _merge(h, accumulator):
    return (h ^ _round(np.uint64(0), accumulator)) * PRIME_1 + PRIME_4


@device
def _stripes(data, start, stop):
    """Inputs of 32 bytes and more: four accumulators over whole stripes."""
    v1 = PRIME_1 + PRIME_2
    v2 = PRIME_2
    v3 = np.uint64(0)
    v4 = np.uint64(0) - PRIME_1
    at = start
    while at + 32 <= stop:
        v1 = _round(v1, _word(data, at))
        v2 = _round(v2, _word(data, at + 8))
        v3 = _round(v3, _word(data, at + 16))
        v4 = _round(v4, _word(data, at + 24))
        at += 32
    h = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
    return _merge(_merge(_merge(_merge(h, v1), v2), v3), v4), at


@device
def _xxh64(data, start, stop):
    h = PRIME_5
    at = start
    if stop - start >= 32:
        h, at = _stripes(data, start, stop)
    h += np.uint64(stop - start)
    while at + 8 <= stop:
        h = _rotate(h ^ _round(np.uint64(0), _word(data, at)), 27) * PRIME_1 + PRIME_4
        at += 8
    if at + 4 <= stop:
        half = np.uint64(0)
        for i in range(4):
            half |= np.uint64(data[at + i]) << np.uint64(8 * i)
        h = _rotate(h ^ (half * PRIME_1), 23) * PRIME_2 + PRIME_3
        at += 4
    while at < stop:
        h = _rotate(h ^ (np.uint64(data[at]) * PRIME_5), 11) * PRIME_1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * PRIME_2
    h = (h ^ (h >> np.uint64(29))) * PRIME_3
    return h ^ (h >> np.uint64(32))


@kernel(U8_1, I64_1, I64, I64, _U64_OUT)
def hash_keys(data, offsets, lo, hi, hashes):
    """XXH64 of keys ``lo`` to ``hi``, each ``data[offsets[i]:offsets[i + 1]]``."""
    for i in range(lo, hi):
        hashes[i] = _xxh64(data, offsets[i], offsets[i + 1])


@device
def _same(a, a_start, b, b_start, length):
    """Whether two texts of one length are equal; of 8 bytes and more, the last word overlaps the one before."""
    if length < 8:
        differing = 0
        for k in range(length):
            differing |= a[np.uint64(a_start + k)] ^ b[np.uint64(b_start + k)]
        return differing == 0
    for k in range(0, length - 8, 8):
        if _word(a, a_start + k) != _word(b, b_start + k):
            return False
    return _word(a, a_start + length - 8) == _word(b, b_start + length - 8)


@device
def _place(data, start, stop, h, entries, key_data, first, last):
    """Place of one key among the entries of its bucket: index of the entry, or -1."""
    for at in range(first, last):
        if entries[np.uint64(at), HASH] == h:
            entry = np.int64(entries[np.uint64(at), START])
            length = np.int64(entries[np.uint64(at), STOP]) - entry
            if length == stop - start and _same(data, start, key_data, entry, length):
                return at
    return -1


@intrinsic
def _byte_at(context, address):
    """The byte at an address."""

    def build(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return nt.uint8(nt.uint64), build


@intrinsic
def _word_at(context, address):
    """Eight bytes at an address that need not be aligned."""

    def build(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return nt.uint64(nt.uint64), build


@device
def _put(data, at, word):
    """Write eight bytes, little-endian; LLVM makes one store of it."""
    for i in range(8):
        data[at + np.uint64(i)] = (word >> np.uint64(8 * i)) & np.uint64(255)


@device
def _is_null(columns, c, row):
    return columns[c, VALID] != 0 and _byte_at(columns[c, VALID] + np.uint64(row)) == 0


@device
def _width(tag):
    """Bytes of a number after its tag."""
    return 8 if tag == INTEGER else 4 if tag == DATE else 1


@device
def _length(columns, row):
    """Bytes of a row's key."""
    length = columns.shape[0]
    for c in range(columns.shape[0]):
        tag = columns[c, TAG]
        if tag == LEFT_OUT or _is_null(columns, c, row):
            continue
        if tag == TEXT:
            length += 4 + np.int64(_word_at(columns[c, VALUES] + np.uint64(16 * row)) & ROW_MASK)
        else:
            length += _width(tag)
    return length


@device
def _write_text(view, buffers, first_buffer, data, at):
    """Write length and bytes of a text; return where they end."""
    head = _word_at(view)
    tail = _word_at(view + np.uint64(8))
    length = head & ROW_MASK
    _put(data, at, head)  # the length, and the first four bytes of any text
    if length <= np.uint64(INLINE):
        _put(data, at + np.uint64(8), tail)
    else:
        address = buffers[first_buffer + (tail & ROW_MASK)] + (tail >> BLOCK_SHIFT)
        last = length - np.uint64(8)
        for k in range(np.uint64(4), last, np.uint64(8)):
            _put(data, at + np.uint64(4) + k, _word_at(address + k))
        _put(data, at + np.uint64(4) + last, _word_at(address + last))
    return at + np.uint64(4) + length


@device
def _write(columns, buffers, row, data, start):
    """Write a row's key and return where it ends; up to :data:`SLACK` bytes behind it are overwritten."""
    at = np.uint64(start)
    for c in range(columns.shape[0]):
        tag = columns[c, TAG]
        null = _is_null(columns, c, row)
        data[at] = MISSING if null else tag
        at += np.uint64(1)
        if tag == LEFT_OUT or null:
            continue
        if tag == TEXT:
            view = columns[c, VALUES] + np.uint64(16 * row)
            at = _write_text(view, buffers, columns[c, FIRST_BUFFER], data, at)
        else:
            _put(data, at, _word_at(columns[c, VALUES] + np.uint64(8 * row)))
            at += np.uint64(_width(tag))
    return at


@kernel(U64_2, _I64_OUT)
def key_lengths(columns, lengths):
    """Bytes of the key of each row; for ``columns`` see :func:`write_keys`."""
    for row in range(lengths.size):
        lengths[row] = _length(columns, row)


@kernel(U64_2, U64_1, I64_1, _U8_OUT)
def write_keys(columns, buffers, offsets, data):
    """Write the key of each row ``i`` as ``data[offsets[i]:offsets[i + 1]]``, with :data:`SLACK` bytes behind the last.

    Parameters
    ----------
    columns : ndarray of uint64, shape (key columns, 4)
        Tag, address of the values, address of a byte per row that is 0 where the value is missing (or no address: none
        is), and for texts the number of its first buffer. The values of texts are Arrow views
        (https://arrow.apache.org/docs/format/Columnar.html, "Variable-size Binary View Layout"): 16 bytes each, of
        which the first four are the length; up to 12 bytes follow inline, a longer text has the number of its buffer
        and its offset there. Other values are int64.
    buffers : ndarray of uint64
        Addresses of the buffers of all columns of texts.
    """
    for row in range(offsets.size - 1):
        _write(columns, buffers, row, data, offsets[row])


@device
def _find_stride(data, offsets, first, count, hashes, starts, entries, key_data, buckets, shift, bases, found, row):
    """Look ``count`` keys up from key ``first`` on; key ``first + i`` is that of ``found[row + i]``.

    They go through each step together, so that their cache misses overlap; the returned number only keeps the compiler
    from dropping the early touch.
    """
    touched = np.uint64(0)
    for i in range(count):
        hashes[i] = _xxh64(data, offsets[first + i], offsets[first + i + 1])
    for i in range(count):
        starts[i] = buckets[np.int64(hashes[i] >> np.uint64(shift))]
    for i in range(count):
        starts[i] = min(starts[i], entries.shape[0] - 1)
        touched ^= entries[np.uint64(starts[i]), HASH]
    if key_data.size > 0:  # the one key of a fleet without key columns has no bytes
        for i in range(count):
            touched ^= np.uint64(key_data[entries[np.uint64(starts[i]), START]])
    for i in range(count):
        if found[row + i] != ABSENT:
            continue
        key = first + i
        last = buckets[np.int64(hashes[i] >> np.uint64(shift)) + 1]
        at = _place(data, offsets[key], offsets[key + 1], hashes[i], entries, key_data, starts[i], last)
        if at >= 0:
            place = entries[at, PLACE]
            gone = place == REMOVED
            found[row + i] = GONE if gone else bases[np.int64(place >> BLOCK_SHIFT)] + np.int64(place & ROW_MASK)
    return touched


@kernel(U8_1, I64_1, U64_2, U8_1, I32_1, I64, I64_1, _I64_OUT, returns=nt.uint64)
def find_keys(data, offsets, entries, key_data, buckets, shift, bases, found):
    """Look up encoded keys, each ``data[offsets[i]:offsets[i + 1]]``, in one index segment.

    Only keys whose ``found`` is still :data:`ABSENT` are looked up, so segments are searched from newest to oldest.
    ``buckets[h >> shift]`` is where hashes with those leading bits start; the key itself is compared after the hash.
    """
    hashes = np.empty(STRIDE, dtype=np.uint64)
    starts = np.empty(STRIDE, dtype=np.int64)
    touched = np.uint64(0)
    for row in range(0, found.size, STRIDE):
        count = min(STRIDE, found.size - row)
        touched ^= _find_stride(
            data, offsets, row, count, hashes, starts, entries, key_data, buckets, shift, bases, found, row
        )
    return touched


@kernel(U64_2, U64_1, U64_2, U8_1, I32_1, I64, I64_1, _I64_OUT, returns=nt.uint64)
def find_rows(columns, buffers, entries, key_data, buckets, shift, bases, found):
    """Look up the keys of rows as :func:`find_keys` does, encoding a stride of them at a time.

    The bytes of a stride stay in a core's nearest cache, and a call is all that a range of rows costs. For ``columns``
    and ``buffers`` see :func:`write_keys`.
    """
    data = np.empty(STRIDE * 64, dtype=np.uint8)
    offsets = np.zeros(STRIDE + 1, dtype=np.int64)
    hashes = np.empty(STRIDE, dtype=np.uint64)
    starts = np.empty(STRIDE, dtype=np.int64)
    touched = np.uint64(0)
    for row in range(0, found.size, STRIDE):
        count = min(STRIDE, found.size - row)
        for i in range(count):
            offsets[i + 1] = offsets[i] + _length(columns, row + i)
        if offsets[count] + SLACK > data.size:
            data = np.empty(2 * offsets[count] + SLACK, dtype=np.uint8)
        for i in range(count):
            _write(columns, buffers, row + i, data, offsets[i])
        touched ^= _find_stride(
            data, offsets, 0, count, hashes, starts, entries, key_data, buckets, shift, bases, found, row
        )
    return touched
