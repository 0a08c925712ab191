"""What PyInstaller needs to know to put fastxent into a frozen application."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folders in which PyInstaller finds hooks, as its entry point `hook-dirs` wants them."""
    return [str(Path(__file__).parent)]
