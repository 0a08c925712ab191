"""One call: which kernels it runs, and what they see, the fields of csrc_pyx/context.h in order."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

FLOAT16: Final = 0
BFLOAT16: Final = 1
FLOAT32: Final = 2
FLOAT64: Final = 3

# The dtypes that the kernels take, by name.
ELEMENTS: Final = {
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "float32": FLOAT32,
    "float64": FLOAT64,
}

TARGET_NOTHING: Final = 0
TARGET_LABELS: Final = 1
TARGET_PROBS: Final = 2

OUTPUT_NOTHING: Final = 0
OUTPUT_GRADIENT: Final = 1
OUTPUT_LOG_SOFTMAX: Final = 2
OUTPUT_HESSIAN: Final = 3  # its diagonal
OUTPUT_LABEL_GRADIENT: Final = 4  # with respect to probabilities
OUTPUT_HESSIAN_PRODUCT: Final = 5  # with a vector for every row

# Sums start afresh every SEGMENT classes, so that a long row split over threads is added in the
# same order as one that is not.
SEGMENT: Final = 16384

# The exponentials of a row of up to SEGMENT classes are kept on a thread's stack, 64 kB, and those
# of a row of up to SCRATCH_CLASSES in its scratch memory.
SCRATCH_CLASSES: Final = 131072

# The numbers that a segment leaves behind, for the row's other segments to be merged with.
STATE_SIZE: Final = 16

# A larger output goes past the caches: it would drive out all that is in them.
STREAM_BYTES: Final = 33554432

# Rows of at most so many classes go through tiles, wherever their classes lie. Beyond, a row keeps
# the registers busy by itself: 31250 x 128 float32 took 2.0 ms in tiles and 2.8 by rows, with
# gradient 4.9 and 4.4; 20000 x 200 took 2.0 and 2.3, with gradient 4.2 and 3.9.
LANE_CLASSES: Final = 128

# How the classes of a row lie: next to each other, rows one after another; the same, for kernels
# that take many rows at once; or as far apart as axis 1 of three axes says, the rows along the
# other two.
LAYOUT_ROWS: Final = 0
LAYOUT_LANES: Final = 1
LAYOUT_PLANES: Final = 2

# What a kernel is run over: the rows, in chunks on all threads; the segments of all rows, likewise;
# or the rows at once, in the caller's thread.
ROWS: Final = 0
SEGMENTS: Final = 1
ROWS_AT_ONCE: Final = 2


# The classes of a block, whose weights are summed beforehand.
BLOCK: Final = 1024

# What `evaluate` answers instead of a wrong row, where a mean is over nothing and that is refused.
EMPTY: Final = -2

# The check of a program whose target was looked at before.
CHECKED: Final = -1


class Options(NamedTuple):
    """What a call asks for besides its labels; a driver takes all of it as it is, or nothing."""

    class_weights: Array | None = None  # (n_classes,), in the type of the arithmetic
    class_masses: Array | None = None  # float64, their sum over each BLOCK classes
    row_weights: Array | None = None  # float64, one a row
    label_scale: float = 1.0
    smoothing: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0
    softcap: float = 0.0  # 0: none
    hess_factor: float = 1.0
    class_offset: int = 0
    n_labels: int = 0  # 0: as many as classes
    partners: Array | None = None  # shaped like the logits
    partners_element: int = 0
    states: Array | None = None  # float64 (n_rows, n_segments, STATE_SIZE), read and written
    denominator: float = -1.0  # of the mean; -1: the rows that are not ignored
    weighs: bool = False  # ... or the sum of their weights
    refuses_empty: bool = False  # whether a mean over nothing is an error


class Program(NamedTuple):
    """What a call runs, on arrays of which elements. Both drivers go through it alike."""

    layout: int
    logits_element: int
    target: int
    target_element: int
    largest: float  # of the probabilities that are taken
    check: int  # the address of the kernel that looks at the target first, or CHECKED
    steps: tuple[tuple[int, int], ...]  # the addresses of the others, in order, and over what


class Context(NamedTuple):
    """Addresses, strides (in bytes) and settings of one call."""

    n_classes: int
    segment: int = SEGMENT
    n_segments: int = 1
    n_inner: int = 1
    logits: int = 0
    logits_stride: int = 0
    logits_inner_stride: int = 0
    logits_class_stride: int = 0
    logits_element: int = FLOAT32
    target: int = TARGET_NOTHING
    labels: int = 0
    class_offset: int = 0
    n_labels: int = 0
    has_ignore_index: int = 0
    ignore_index: int = 0
    probs: int = 0
    probs_stride: int = 0
    probs_element: int = FLOAT32
    class_weights: int = 0
    class_masses: int = 0
    row_weights: int = 0
    label_scale: float = 1.0
    smoothing: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0
    softcap: float = 0.0
    transforms: int = 0
    hess_factor: float = 1.0
    partners: int = 0
    partners_stride: int = 0
    partners_element: int = FLOAT32
    output_kind: int = OUTPUT_NOTHING
    output: int = 0
    output_stride: int = 0
    output_inner_stride: int = 0
    output_class_stride: int = 0
    output_scale: float = 1.0
    output_exponent: int = 0
    output_streams: int = 0
    losses: int = 0
    states: int = 0
    totals: int = 0
    scratch: int = 0
    scratch_stride: int = 0

    def pack(self) -> bytes:
        return _LAYOUT.pack(*self)


# (name, struct code) of every field; the codes stand for int64 and float64.
FIELDS: Final = tuple(
    (name, "d" if type(Context._field_defaults.get(name)) is float else "q")
    for name in Context._fields
)
_LAYOUT: Final = struct.Struct("=" + "".join(code for _, code in FIELDS))
CONTEXT_SIZE: Final = _LAYOUT.size
CONTEXT_DTYPE: Final = np.dtype(
    [(name, np.float64 if code == "d" else np.int64) for name, code in FIELDS]
)
