"""Lets `python -m rl` be the command `rl`."""

from __future__ import annotations

import sys

from rl.cli.main import rl_main

if __name__ == "__main__":
    sys.exit(rl_main())
