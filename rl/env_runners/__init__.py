"""Collection: environments, the runners that step them, evaluation."""
