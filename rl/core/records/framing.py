"""How event files frame their records: length and checksums around the bytes.

TensorBoard's own writer does the same, but to import it takes as long as everything else it is
imported with: TensorBoard's stand-in for TensorFlow comes with it.
"""

from __future__ import annotations

import struct

__all__ = ["framed", "masked_crc32c"]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reversed
_MASK_DELTA = 0xA282EAD8


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        rest = entry
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        entries.append(rest)
    return tuple(entries)


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4), rotated and shifted as TFRecord files have it."""
    rest, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        rest = table[(rest ^ byte) & 0xFF] ^ (rest >> 8)
    rest ^= 0xFFFFFFFF
    return (((rest >> 15) | (rest << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    """A record: its length, the checksum of that, the bytes, their checksum; little-endian."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (
            length,
            struct.pack("<I", masked_crc32c(length)),
            data,
            struct.pack("<I", masked_crc32c(data)),
        )
    )
