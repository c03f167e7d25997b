"""Mechanisms: they know no algorithm and step no environment."""
