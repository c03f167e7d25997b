import numpy as np

from rl.core.seeding import NoiseStream, episode_seed, random_generator, stream_seed


def test_no_two_places_share_an_episode_seed() -> None:
    seeds = {
        episode_seed(root, runner, environment, episode)
        for root in range(4)
        for runner in range(4)
        for environment in range(4)
        for episode in range(16)
    }
    assert len(seeds) == 4 * 4 * 4 * 16
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_are_the_same_in_every_version() -> None:
    # Written down once: a change here changes every run ever made.
    assert episode_seed(1, 2, 3, 4) == 1881675868
    assert stream_seed(0, "module") == 2686181621778767207


def test_streams_of_other_names_and_indices_are_other_streams() -> None:
    seeds = {stream_seed(0, "learner"), stream_seed(0, "module"), stream_seed(1, "module")}
    seeds |= {stream_seed(0, "module", 0), stream_seed(0, "module", 1)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, second = (random_generator(0, "shuffle", index).random(4) for index in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, random_generator(0, "shuffle", 0).random(4))


def test_a_fragments_noise_does_not_depend_on_what_was_drawn_before() -> None:
    stream = NoiseStream(7, 1)
    stream.fragment(0).random(1000)
    late = stream.fragment(5).random(100)
    assert np.array_equal(late, NoiseStream(7, 1).fragment(5).random(100))


def test_noise_of_fragments_runners_and_seeds_does_not_overlap() -> None:
    draws = [
        NoiseStream(root, runner).fragment(number).random(256)
        for root, runner, number in [(7, 1, 0), (7, 1, 1), (7, 0, 0), (8, 1, 0)]
    ]
    values = np.concatenate(draws)
    assert len(np.unique(values)) == values.size
