"""Shared memory: reuse, release, and the way without memfd."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest

from rl.core.runtime import segments
from rl.core.runtime.segments import (
    KEPT_ANYWAY,
    SMALLEST,
    Segment,
    SegmentPool,
    available_memory,
    create_memory,
    owner_of,
    view_of,
)
from rl.core.runtime.wire import INLINE_BYTES, pack, segment_in, unpack
from rl.errors import RuntimeFault


def test_a_segment_given_back_is_used_for_the_next_of_its_size() -> None:
    pool = SegmentPool(7)
    first = pool.take(1_000_000)
    assert pool.take(1_000_000).id != first.id
    pool.give_back(first.id)
    assert pool.take(900_000).id == first.id
    assert owner_of(first.id) == 7


def test_a_small_request_does_not_take_a_large_segment() -> None:
    pool = SegmentPool(0)
    large = pool.take(50 * 2**20)
    pool.give_back(large.id)
    assert pool.take(2**20).id != large.id


def test_a_pool_closes_its_oldest_free_segments_when_they_are_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "MAX_FREE_BYTES", 3 * SMALLEST)
    pool = SegmentPool(0)
    taken = [pool.take(SMALLEST) for _ in range(KEPT_ANYWAY + 2)]
    retired = [retired for segment in taken for retired in pool.give_back(segment.id)]
    assert retired == [taken[0].id, taken[1].id]
    assert taken[0].fd == -1
    assert taken[2].fd >= 0


def test_a_segment_is_as_large_as_was_asked_for() -> None:
    for size in (1, SMALLEST, SMALLEST + 1, 1_234_567, 2**20, 2**20 + 1):
        segment = SegmentPool(0).take(size)
        assert segment.size >= size
        assert segment.size <= max(SMALLEST, 1.26 * size)
        assert len(segment.memory) == segment.size


def test_a_view_tells_when_the_last_array_in_it_is_gone() -> None:
    segment = SegmentPool(0).take(SMALLEST)
    released: list[bool] = []
    view = view_of(segment, lambda: released.append(True))
    part = view[100:200].view(np.float32)[3:]
    del view
    gc.collect()
    assert released == []
    assert not part.flags.writeable
    del part
    assert released == [True]


def test_a_reader_cannot_write_and_the_writer_cannot_shrink() -> None:
    segment = SegmentPool(0).take(SMALLEST)
    reader = Segment(1, os.dup(segment.fd), segment.size, writable=False)
    segment.memory[0:2] = b"ab"
    assert reader.memory[0:2] == b"ab"
    with pytest.raises(TypeError, match="readonly"):
        reader.memory[0] = 1
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 0)


def test_memory_that_is_not_there_is_told_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() < float("inf")
    monkeypatch.setattr(segments, "available_memory", lambda: 70.0 * 2**20)
    os.close(create_memory(70 * 2**20))
    with pytest.raises(RuntimeFault, match="no shared memory for an array of 71 MiB: this machine"):
        create_memory(71 * 2**20)


def test_a_system_without_room_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeFault, match="No space left on device"):
        create_memory(SMALLEST)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_memfd_an_unlinked_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    segment = SegmentPool(0).take(SMALLEST)
    segment.memory[0:2] = b"ab"
    assert os.pread(segment.fd, 2, 0) == b"ab"
    assert os.fstat(segment.fd).st_nlink == 0


def test_small_values_travel_in_the_message_and_large_ones_in_a_segment() -> None:
    pool = SegmentPool(0)
    small = pack(np.arange(10), pool.take)
    assert segment_in(small) is None
    value = {"a": np.arange(INLINE_BYTES), "b": [np.ones(3), "text"]}
    large = pack(value, pool.take)
    segment_id = segment_in(large)
    assert segment_id is not None
    got = unpack(large, lambda wanted: view_of(pool.lent(wanted), lambda: None))
    np.testing.assert_array_equal(got["a"], value["a"])
    assert got["b"][1] == "text"


def test_a_large_pickle_without_arrays_travels_in_a_segment_too() -> None:
    pool = SegmentPool(0)
    value = [str(number) for number in range(20_000)]
    blob = pack(value, pool.take)
    assert segment_in(blob) is not None
    assert unpack(blob, lambda wanted: view_of(pool.lent(wanted), lambda: None)) == value
