"""Trains with a preset and evaluates what was learnt."""

from rl.algorithms.registry import config_class
from rl.configs.presets import find_preset


def evaluation(algo: str, name: str, seed: int) -> float:
    """The mean return of 20 greedy episodes after the preset's steps."""
    preset = find_preset(algo, name)
    assert preset is not None
    with config_class(algo)(**preset | {"seed": seed}).build() as algorithm:
        algorithm.learn()
        return algorithm.evaluate(num_episodes=20).mean
