"""Wheels of the sources as they are, and of each plant.

All are built from one copy of the sources in one build folder, where ninja compiles only what a
plant has changed: about a minute for a kernel, nothing for Python. A wheel lies in a folder named
by the hash of its sources, and is built once.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fastxent.benchmarks.judge.planted.plant import Plant, apply_to


class Builds:
    """The wheels of a checkout and of its plants, kept in a folder."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        """Raises OSError where the checkout is none of git's."""
        self._folder = folder.resolve()
        self.sources = read_sources(checkout)
        # the pages are built from, too, but measure nothing
        self.fingerprint = hash_of(
            {path: text for path, text in self.sources.items() if not path.endswith(".md")}
        )

    def wheel(self, plant: Plant | None = None) -> Path:
        """The wheel with the plant in it, built where it is not there yet.

        Raises ValueError where the plant does not fit the sources, ChildProcessError where they do
        not build.
        """
        edited = apply_to(plant, self.sources) if plant else {}
        sources = {**self.sources, **{path: text.encode() for path, text in edited.items()}}
        place = self._folder / "wheels" / hash_of(sources)
        if not (found := list(place.glob("*.whl"))):
            self._lay_out(sources)
            _run(
                *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
                *("--disable-pip-version-check", f"-Cbuild-dir={self._folder / 'build'}"),
                *("--wheel-dir", str(place), str(self._folder / "sources")),
            )
            found = list(place.glob("*.whl"))
        (wheel,) = found
        return wheel

    def _lay_out(self, sources: Mapping[str, bytes]) -> None:
        # Only files that differ are written: ninja goes by the time of the last change.
        for path, content in sources.items():
            place = self._folder / "sources" / path
            if not place.exists() or place.read_bytes() != content:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)


def read_sources(checkout: Path) -> dict[str, bytes]:
    """The files that the package is built from, as they lie in the checkout, by path."""
    named = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode:
        raise OSError(f"{checkout} is no checkout of git: {named.stderr.strip()}")
    paths = [path for path in named.stdout.split("\0") if path and _is_built(path)]
    # what is deleted is named until that is committed
    return {path: (checkout / path).read_bytes() for path in paths if (checkout / path).is_file()}


def _is_built(path: str) -> bool:
    top, _, rest = path.partition("/")
    if not rest:
        return not top.startswith(".")
    return top in ("fastxent", "csrc_pyx", "verify", "benchmarks")


def hash_of(sources: Mapping[str, bytes]) -> str:
    """Short, and different for different sources."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path}\0{len(sources[path])}\0".encode() + sources[path])
    return digest.hexdigest()[:16]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(
            f"{' '.join(command)} failed with status {done.returncode}:\n"
            f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
