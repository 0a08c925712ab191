from typing import Any

import numpy as np

from .context import Options, Program

CONTEXT_SIZE: int

def evaluate(
    program: Program,
    logits: np.ndarray[Any, Any],
    target: np.ndarray[Any, Any] | None,
    ignore_index: object,
    losses: np.ndarray[Any, Any] | None,
    output: np.ndarray[Any, Any] | None,
    output_kind: int,
    mean: bool,
    chunk: int,
    n_threads: int,
    options: Options | None = None,
) -> tuple[int, float, float] | None: ...
def quotient(numerator: float, denominator: float) -> float: ...

class default_float_mode:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

def is_apart(output: object, logits: object, target: object) -> bool: ...
def worker_count() -> int: ...
def instruction_set() -> str: ...
def cpu_supports(instruction_set: str) -> bool: ...
