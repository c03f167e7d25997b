"""Passes of plain MLPs, compiled: what the `compiled` learning engine and acting run on."""
