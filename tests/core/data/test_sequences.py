"""A rollout as sequences: every step once, none beyond its episode or chunk."""

import numpy as np
import pytest

from rl.core.data.sequences import Sequences


def ends(time: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Where episodes end, and which rows are steps: behind an end, some rows are none."""
    generator = np.random.default_rng(seed)
    done = generator.random((time, width)) < 0.2
    valid = np.ones_like(done)
    valid[1:] = ~done[:-1] | (generator.random((time - 1, width)) < 0.5)
    return done & valid, valid


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [1, 4, 7, 100])
def test_sequences_are_steps_that_follow_each_other_within_one_episode(
    length: int, seed: int
) -> None:
    time, width = 21, 3
    done, valid = ends(time, width, seed)
    sequences = Sequences.cut(done, valid, length)
    t, b = np.divmod(sequences.rows, width)
    steps = {(int(at), int(env)) for at, env in zip(t, b, strict=True)}
    assert len(steps) == len(sequences.rows)
    assert steps == {(int(at), int(env)) for at, env in np.argwhere(valid)}
    begun = set()
    for first, count in zip(sequences.first, sequences.lengths, strict=True):
        own = slice(first, first + count)
        assert (b[own] == b[first]).all()
        assert (np.diff(t[own]) == 1).all()
        assert not done[t[own][:-1], b[own][:-1]].any(), "goes on beyond an end"
        assert len(set((t[own] // length).tolist())) == 1, "goes on beyond a chunk"
        begun.add((int(t[first]), int(b[first])))
    for at, env in steps - begun:  # none is cut but for a reason
        assert at % length
        assert (at - 1, env) in steps
        assert not done[at - 1, env]


def test_without_ends_a_chunk_is_a_sequence() -> None:
    sequences = Sequences.cut(np.zeros((8, 2), np.bool_), None, 4)
    assert sequences.num_chunks == len(sequences.first) == 4
    assert sequences.lengths.tolist() == [4] * 4
    assert sequences.rows.tolist() == [*range(0, 16, 2), *range(1, 16, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_packed_steps_are_those_of_the_chunks_longest_sequence_first(seed: int) -> None:
    done, valid = ends(30, 4, seed)
    sequences = Sequences.cut(done, valid, 6)
    chunks = np.random.default_rng(seed).permutation(sequences.num_chunks)[:7]
    packing = sequences.pack(chunks)
    assert sorted(packing.steps) == sorted(sequences.steps_of(chunks))
    assert sorted(packing.sequences) == sorted(sequences.of(chunks))
    assert packing.batch_sizes.sum() == len(packing.steps)
    walked: dict[int, list[int]] = {int(number): [] for number in packing.sequences}
    at = 0
    for size in packing.batch_sizes:
        for number in packing.sequences[:size]:
            walked[int(number)].append(int(packing.steps[at]))
            at += 1
    for number, steps in walked.items():
        first = sequences.first[number]
        assert steps == list(range(first, first + sequences.lengths[number]))


def test_chunks_hold_each_sequence_once() -> None:
    sequences = Sequences.cut(*ends(30, 4, 1), 6)
    every = sequences.of(np.arange(sequences.num_chunks))
    assert every.tolist() == list(range(len(sequences.first)))
    t, b = np.divmod(sequences.rows, 4)
    for chunk in range(sequences.num_chunks):
        own = sequences.steps_of(np.array([chunk]))
        assert len({(int(b[i]), int(t[i]) // 6) for i in own}) == 1
