"""`python -m fastxent.verify` is `fastxent verify`."""

from __future__ import annotations

import sys

from ..cli import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]])
