"""The commands `train` and `rl`: thin; each imports what it needs when it runs."""
