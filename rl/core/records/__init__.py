"""What stays of a run: its directory, metrics, episodes and checkpoints. Knows no algorithm."""
