"""Elements in and out: logits of any type as reals, and results where they belong."""

from __future__ import annotations

import math

import numpy as np

from ..context import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from ..numba_vectors import (
    compiled,
    inlined,
    load,
    load_bfloat16,
    load_float16,
    load_float32,
    load_float64,
    load_one_bfloat16,
    load_one_float16,
    load_one_float32,
    load_one_float64,
    load_partial,
    pointer_at,
    store,
    store_bfloat16,
    store_float16,
    store_float32,
    store_one_bfloat16,
    store_one_float16,
    store_one_float32,
)
from .precision import line, own_element, real, zero
from .settings import CONVERTS


@inlined
def load_up_to(source, j, n, fill):
    # The line at element j, of which n lanes or more are there; the others hold `fill`.
    if n >= line:
        return load(source, j)
    return load_partial(source, j, n, fill)


@inlined
def load_values(source, j, n):
    return load_up_to(source, j, n, zero)


@inlined
def element_size(element):
    return 8 if element == FLOAT64 else (4 if element == FLOAT32 else 2)


@inlined
def load_element(source, element):
    if not CONVERTS:
        return np.float64(pointer_at(source, zero)[0])
    if element == FLOAT16:
        return np.float64(load_one_float16(source, zero))
    if element == BFLOAT16:
        return np.float64(load_one_bfloat16(source, zero))
    if element == FLOAT32:
        return np.float64(load_one_float32(source, zero))
    return np.float64(load_one_float64(source, 0.0))


@compiled
def scale_values(values, n, stride, exponent):
    # n values times 2^exponent, each rounded once.
    for j in range(n):
        values[j * stride] = real(math.ldexp(np.float64(values[j * stride]), exponent))


@inlined
def store_element(destination, element, value):
    if not CONVERTS or element == own_element:
        pointer_at(destination, zero)[0] = real(value)
    elif element == FLOAT16:
        store_one_float16(destination, real(value))
    elif element == FLOAT32:
        store_one_float32(destination, real(value))
    else:
        store_one_bfloat16(destination, real(value))


@compiled
def convert_block(source, element, n, buffer):
    size = element_size(element)
    j = 0
    while j + line <= n:
        place = source + j * size
        if element == FLOAT16:
            store(buffer, j, load_float16(place, zero))
        elif element == BFLOAT16:
            store(buffer, j, load_bfloat16(place, zero))
        elif element == FLOAT32:
            store(buffer, j, load_float32(place, zero))
        else:
            store(buffer, j, load_float64(place, zero))
        j += line
    while j < n:
        buffer[j] = real(load_element(source + j * size, element))
        j += 1


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
def store_block(block, n, destination, element):
    if not CONVERTS or element == own_element:
        return
    size = element_size(element)
    j = 0
    while j + line <= n:
        place = destination + j * size
        if element == FLOAT16:
            store_float16(place, load(block, j))
        elif element == FLOAT32:
            store_float32(place, load(block, j))
        else:
            store_bfloat16(place, load(block, j))
        j += line
    while j < n:
        store_element(destination + j * size, element, np.float64(block[j]))
        j += 1
