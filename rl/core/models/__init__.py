"""What acts: distributions, modules, policies."""
