"""Free memory is the least of what the machine and the container leave."""

from pathlib import Path

import pytest

from rl.core.data import memory

KIB = 1024


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "expected"),
    [
        ("MemTotal: 900 kB\nMemAvailable:   300 kB\n", None, None, 300 * KIB),
        ("MemAvailable: 300 kB\n", "max\n", "5000\n", 300 * KIB),
        ("MemAvailable: 300 kB\n", "204800\n", "102400\n", 100 * KIB),
        ("MemAvailable: 300 kB\n", "1000\n", "2000\n", 0),
        (None, "204800\n", "102400\n", 100 * KIB),
        (None, None, None, None),
    ],
)
def test_what_is_free(
    meminfo: str | None,
    limit: str | None,
    used: str | None,
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in (("MEMINFO", meminfo), ("LIMIT", limit), ("USED", used)):
        monkeypatch.setattr(memory, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    assert memory.available_memory() == expected
