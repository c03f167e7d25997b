"""What flows: spaces, rollouts, batches, returns."""
