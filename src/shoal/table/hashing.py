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

#: Longest text that an Arrow view holds itself.
INLINE = 12

#: What :func:`find` writes for a key it did not meet, and for one that was removed.
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
def _same(a, a_start, a_stop, b, b_start, b_stop):
    if a_stop - a_start != b_stop - b_start:
        return False
    while a_start + 8 <= a_stop:
        if _word(a, a_start) != _word(b, b_start):
            return False
        a_start += 8
        b_start += 8
    while a_start < a_stop:
        if a[a_start] != b[b_start]:
            return False
        a_start += 1
        b_start += 1
    return True


@device
def _place(data, start, stop, h, entries, key_data, first, last):
    """Place of one key among the entries of its bucket: index of the entry, or -1."""
    at = first
    while at < last and entries[at, HASH] < h:
        at += 1
    while at < last and entries[at, HASH] == h:
        if _same(data, start, stop, key_data, np.int64(entries[at, START]), np.int64(entries[at, STOP])):
            return at
        at += 1
    return -1


@kernel(U8_1, I64_1, I64, I64, U64_2, U8_1, I32_1, I64, I64_1, _I64_OUT, returns=nt.uint64)
def find(data, offsets, lo, hi, entries, key_data, buckets, shift, bases, found):
    """Look keys ``lo`` to ``hi`` up in one index segment.

    Only keys whose ``found`` is still :data:`ABSENT` are looked up, so segments are searched from newest to oldest.
    ``buckets[h >> shift]`` is where hashes with those leading bits start; the key itself is compared after the hash.
    A stride of keys goes through each step together, so that their cache misses overlap; the returned number only keeps
    the compiler from dropping the early touch.
    """
    hashes = np.empty(STRIDE, dtype=np.uint64)
    firsts = np.empty(STRIDE, dtype=np.int64)
    touched = np.uint64(0)
    for base in range(lo, hi, STRIDE):
        count = min(STRIDE, hi - base)
        for i in range(count):
            hashes[i] = _xxh64(data, offsets[base + i], offsets[base + i + 1])
        for i in range(count):
            firsts[i] = buckets[np.int64(hashes[i] >> np.uint64(shift))]
        for i in range(count):
            firsts[i] = min(firsts[i], entries.shape[0] - 1)
            touched ^= entries[firsts[i], HASH]
        for i in range(count):
            if key_data.size > 0:  # the one key of a fleet without key columns has no bytes
                touched ^= np.uint64(key_data[entries[firsts[i], START]])
        for i in range(count):
            row = base + i
            if found[row] != ABSENT:
                continue
            last = buckets[np.int64(hashes[i] >> np.uint64(shift)) + 1]
            at = _place(data, offsets[row], offsets[row + 1], hashes[i], entries, key_data, firsts[i], last)
            if at >= 0:
                place = entries[at, PLACE]
                gone = place == REMOVED
                found[row] = GONE if gone else bases[np.int64(place >> BLOCK_SHIFT)] + np.int64(place & ROW_MASK)
    return touched


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
def _copy(address, length, data, target):
    """Copy bytes from an address; unsigned indices cannot wrap, so these are plain loads and stores."""
    k = np.uint64(0)
    while k + np.uint64(8) <= length:
        word = _word_at(address + k)
        for i in range(8):
            data[target + k + np.uint64(i)] = (word >> np.uint64(8 * i)) & np.uint64(255)
        k += np.uint64(8)
    while k < length:
        data[target + k] = _byte_at(address + k)
        k += np.uint64(1)


@kernel(U64_2, nt.uint64, U64_1, U8_1, I64_1, _U8_OUT)
def write_texts(views, base, buffers, valid, positions, data):
    """Write tag 1, the length as uint32 and the bytes of a text, or tag 5 where ``valid`` says null.

    Texts are Arrow views (https://arrow.apache.org/docs/format/Columnar.html, "Variable-size Binary View Layout"): 16
    bytes each, of which the first four are the length; up to 12 bytes follow inline, a longer text has the number of
    its buffer and its offset there. ``base`` is the address of the views, ``buffers`` those of the buffers.
    """
    for i in range(positions.size):
        at = np.uint64(positions[i])
        if valid.size > 0 and valid[i] == 0:
            data[at] = 5
            continue
        length = views[i, 0] & ROW_MASK
        address = base + np.uint64(16 * i + 4)
        if length > np.uint64(INLINE):
            address = buffers[views[i, 1] & ROW_MASK] + (views[i, 1] >> BLOCK_SHIFT)
        data[at] = 1
        for k in range(4):
            data[at + np.uint64(1 + k)] = (length >> np.uint64(8 * k)) & np.uint64(255)
        _copy(address, length, data, at + np.uint64(5))


@kernel(I64_1, U8_1, I64, I64, I64_1, I64, I64, _U8_OUT)
def write_numbers(numbers, valid, tag, width, positions, lo, hi, data):
    """Write ``tag`` and ``width`` little-endian bytes of a number, or tag 5 where ``valid`` says null."""
    for i in range(lo, hi):
        at = positions[i]
        if valid.size > 0 and valid[i] == 0:
            data[at] = 5
            continue
        data[at] = tag
        for k in range(width):
            data[at + 1 + k] = (numbers[i] >> (8 * k)) & 255
