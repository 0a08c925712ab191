"""What was not measured, and why."""

from __future__ import annotations

from collections import Counter
from typing import Any


def print_not_measured(results: dict[str, Any]) -> None:
    """A line for each reason to skip, and one for each benchmark that failed."""
    missing = results.get("not_measured", {})
    for reason, count in Counter(missing.get("skipped", {}).values()).items():
        print(f"skipped, {count} of them: {reason}")
    for name, reason in missing.get("failed", {}).items():
        print(f"FAILED {name}: {reason}")
