"""What the project wants to stay fast: its own training step, not fastxent's functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from word_model import WordModel

N_HIDDEN = 32


@pytest.mark.parametrize("n_words", [10, 1000])
@pytest.mark.parametrize("batch", [32, 256])
def test_training_step(benchmark: Any, batch: int, n_words: int) -> None:
    """One step on a batch that is always the same."""
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((batch, N_HIDDEN), dtype=np.float32)
    words = rng.integers(0, n_words, batch)
    model = WordModel(N_HIDDEN, n_words)
    before = model.training_step(hidden, words)

    benchmark(model.training_step, hidden, words)

    # A step that has become quick because it does nothing is no success.
    assert model.training_step(hidden, words) < before
