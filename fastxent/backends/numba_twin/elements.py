"""Elements in and out: logits of any type as reals, and results where they belong."""

from __future__ import annotations

import numpy as np

from ..context import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from ..numba_functions import compiled, inlined
from ..numba_halves import narrow_bfloat16, narrow_float16, widen_bfloat16, widen_float16
from ..numba_scalars import ldexp, pointer_at
from .precision import own_element, real, zero
from .settings import CONVERTS

bits_type = np.uint16(0)
float32_type = np.float32(0.0)


@inlined
def element_size(element):
    return 8 if element == FLOAT64 else (4 if element == FLOAT32 else 2)


@inlined
def load_element(source, element):
    if not CONVERTS:
        return np.float64(pointer_at(source, zero)[0])
    if element == FLOAT16:
        return np.float64(widen_float16(pointer_at(source, bits_type)[0]))
    if element == BFLOAT16:
        return np.float64(widen_bfloat16(pointer_at(source, bits_type)[0]))
    if element == FLOAT32:
        return np.float64(pointer_at(source, float32_type)[0])
    return pointer_at(source, 0.0)[0]


@compiled
def scale_values(values, n, stride, exponent):
    # n values times 2^exponent, each rounded once.
    for j in range(n):
        values[j * stride] = real(ldexp(np.float64(values[j * stride]), exponent))


@inlined
def store_element(destination, element, value):
    if not CONVERTS or element == own_element:
        pointer_at(destination, zero)[0] = real(value)
    elif element == FLOAT16:
        pointer_at(destination, bits_type)[0] = narrow_float16(np.float32(real(value)))
    elif element == FLOAT32:
        pointer_at(destination, float32_type)[0] = np.float32(real(value))
    else:
        pointer_at(destination, bits_type)[0] = narrow_bfloat16(np.float32(real(value)))


@compiled
def convert_block(source, element, n, buffer):
    if element == FLOAT16:
        bits = pointer_at(source, bits_type)
        for j in range(n):
            buffer[j] = real(widen_float16(bits[j]))
    elif element == BFLOAT16:
        bits = pointer_at(source, bits_type)
        for j in range(n):
            buffer[j] = real(widen_bfloat16(bits[j]))
    elif element == FLOAT32:
        singles = pointer_at(source, float32_type)
        for j in range(n):
            buffer[j] = real(singles[j])
    else:
        doubles = pointer_at(source, 0.0)
        for j in range(n):
            buffer[j] = real(doubles[j])


@compiled
def copy_values(values, n, places):
    # floats, converted where the places are of another type
    for j in range(n):
        places[j] = values[j]


@inlined
def load_block(source, element, n, buffer):
    # n elements as reals: where they lie, or converted into `buffer` (BLOCK reals).
    if not CONVERTS or element == own_element:
        return pointer_at(source, zero)
    convert_block(source, element, n, buffer)
    return buffer


@inlined
def output_block(destination, element, buffer):
    # Where results go first: to their place, or to `buffer` until store_block converts.
    if not CONVERTS or element == own_element:
        return pointer_at(destination, zero)
    return buffer


@compiled
def convert_results(block, n, destination, element):
    if element == FLOAT16:
        bits = pointer_at(destination, bits_type)
        for j in range(n):
            bits[j] = narrow_float16(np.float32(block[j]))
    elif element == FLOAT32:
        singles = pointer_at(destination, float32_type)
        for j in range(n):
            singles[j] = np.float32(block[j])
    else:
        bits = pointer_at(destination, bits_type)
        for j in range(n):
            bits[j] = narrow_bfloat16(np.float32(block[j]))


@inlined
def store_block(block, n, destination, element):
    if CONVERTS and element != own_element:
        convert_results(block, n, destination, element)
