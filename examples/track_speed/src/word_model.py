"""The made-up project: a model of the next word, one matrix wide, trained with fastxent's loss."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastxent

Array = np.ndarray[Any, Any]


class WordModel:
    """Logits of the next word: the hidden state times a matrix (n_hidden, n_words)."""

    def __init__(self, n_hidden: int, n_words: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.matrix = rng.standard_normal((n_hidden, n_words), dtype=np.float32) / n_hidden
        self._logits = np.empty((0, n_words), np.float32)

    def training_step(self, hidden: Array, words: Array, rate: float = 0.5) -> float:
        """One step of gradient descent on a batch; the mean loss before it."""
        if len(self._logits) != len(hidden):
            self._logits = np.empty((len(hidden), self.matrix.shape[1]), np.float32)
        logits = np.matmul(hidden, self.matrix, out=self._logits)
        loss, grad_logits = fastxent.cross_entropy_with_grad(logits, words, out=logits)
        self.matrix -= np.float32(rate) * (hidden.T @ grad_logits)
        return float(loss)
