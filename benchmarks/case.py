"""One thing that is timed. Standard library only, as requirements.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """An operation on a shape and dtype with so many threads: one group of benchmarks."""

    operation: str
    dtype: str
    shape: str  # "2048x32000"; "8x21x512x512-axis1" where the classes are not along the last axis
    threads: int

    @property
    def group(self) -> str:
        return f"{self.operation} {self.dtype} {self.shape} {self._threads}"

    @property
    def test_id(self) -> str:
        return f"{self.shape}-{self.dtype}-{self._threads}-{self.operation}"

    @property
    def _threads(self) -> str:
        return "1thread" if self.threads == 1 else f"{self.threads}threads"

    @property
    def dimensions(self) -> tuple[int, ...]:
        return tuple(map(int, self.shape.partition("-axis")[0].split("x")))

    @property
    def axis(self) -> int:
        return int(self.shape.partition("-axis")[2] or -1)

    @property
    def soft(self) -> bool:
        """Whether labels are probabilities."""
        return self.operation.startswith("soft_")

    @property
    def arrays_moved(self) -> int:
        """How often a call must read or write as many bytes as the logits have."""
        return {"loss": 1, "soft_loss_and_grad": 3}.get(self.operation, 2)
