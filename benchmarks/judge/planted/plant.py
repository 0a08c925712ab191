"""A planted slowdown as data: what is edited in the sources, and which gate must see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Twin = Literal["cython", "numba", "driver"]
Gate = Literal["A", "B"]


@dataclass(frozen=True)
class Edit:
    """A text that occurs once in a file of the sources, and what takes its place."""

    path: str
    text: str
    replacement: str


def before(path: str, text: str, added: str) -> Edit:
    """Puts something in front of a text."""
    return Edit(path, text, added + text)


def after(path: str, text: str, added: str) -> Edit:
    """Puts something behind a text."""
    return Edit(path, text, text + added)


@dataclass(frozen=True)
class Plant:
    """A slowdown: results stay right.

    `percent` is how many instructions more the affected kernel takes, about, where that is what
    is planted; some cases take far more. `seen_by` names the gates that claim to see it. `timed`
    chooses the benchmarks that gate B runs, as pytest's -k does; it is empty where gate B has none
    that comes to the place, or where it would take too long: Numba compiles in each of its
    processes.
    """

    name: str
    twin: Twin
    stands_for: str
    seen_by: tuple[Gate, ...]
    edits: tuple[Edit, ...]
    timed: str
    percent: int | None = None

    @property
    def backends(self) -> tuple[str, ...]:
        """Whose counts and benchmarks can change: what is around the kernels serves both alike."""
        return ("cython",) if self.twin == "driver" else (self.twin,)


def apply_to(plant: Plant, sources: Mapping[str, bytes]) -> dict[str, str]:
    """The edited files by path.

    Raises ValueError for an edit whose text does not occur exactly once: the sources have moved on,
    and the plant has to follow them.
    """
    edited: dict[str, str] = {}
    for edit in plant.edits:
        source = edited.get(edit.path) or sources[edit.path].decode()
        found = source.count(edit.text)
        if found != 1:
            raise ValueError(
                f"plant {plant.name}: the text to edit occurs {found} times in {edit.path}, "
                f"not once: {edit.text.strip()!r}; make the plant fit the sources again"
            )
        edited[edit.path] = source.replace(edit.text, edit.replacement)
    return edited


KERNELS_PYX: Final = "csrc_pyx/kernels.pyx"
PRIMITIVES_H: Final = "csrc_pyx/primitives.h"
LANES_H: Final = "csrc_pyx/lanes.h"
VECTOR_H: Final = "csrc_pyx/vector.h"
DRIVER_C: Final = "csrc_pyx/driver.c"
DRIVER_PYX: Final = "csrc_pyx/driver.pyx"
NUMBA_ELEMENTS: Final = "fastxent/backends/numba_twin/elements.py"
NUMBA_KERNELS: Final = "fastxent/backends/numba_twin/kernels.py"
NUMBA_SUMS: Final = "fastxent/backends/numba_twin/sums.py"
NUMBA_TILES: Final = "fastxent/backends/numba_twin/tiles.py"
NUMBA_SCALARS: Final = "fastxent/backends/numba_scalars.py"
CALL: Final = "fastxent/_call.py"
