"""Says so where Python imports the source folder instead of the installed package.

Python puts the folder it is started in first on its path, so in the root of a checkout
`import fastxent` finds the sources, which have neither compiled modules nor `fastxent.verify`.
An editable install brings both, whatever the folder.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_root = Path(__file__).parent.parent

if (_root / "csrc_pyx" / "meson.build").is_file() and (
    importlib.util.find_spec("fastxent.verify") is None
):
    raise ImportError(
        f"{_root / 'fastxent'} is the source folder of fastxent, not an installation: start "
        "Python in another folder (the commands `fastxent` and `pytest` work in this one), or "
        "make an editable install (CONTRIBUTING.md)"
    )
