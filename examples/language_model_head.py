"""Perplexity and gradient of a language model's logits, with padding, in place.

    python examples/language_model_head.py

The logits are made up (seeded), shaped as a model with 32000 tokens would give them.
"""

from __future__ import annotations

import numpy as np

import fastxent

N_TOKENS = 32_000
PADDING = -100


def main() -> None:
    """Score four sequences of different lengths."""
    rng = np.random.default_rng(0)
    lengths = np.array([64, 50, 41, 17])
    n_sequences, longest = len(lengths), lengths.max()

    labels = rng.integers(0, N_TOKENS, size=(n_sequences, longest))
    logits = rng.standard_normal((n_sequences, longest, N_TOKENS), dtype=np.float32)
    # A model that has learnt something gives the right token a higher logit.
    right = labels[..., np.newaxis]
    np.put_along_axis(logits, right, np.take_along_axis(logits, right, axis=-1) + 8, axis=-1)
    # The shorter sequences are padded: those positions have no token to predict.
    padded = np.arange(longest) >= lengths[:, np.newaxis]
    labels[padded] = PADDING

    # out=logits writes the gradient over the logits: no second array of this size is needed.
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, ignore_index=PADDING, out=logits
    )

    print(
        f"{logits.nbytes / 1e6:.0f} MB of logits, {np.sum(~padded)} tokens, {np.sum(padded)} pads"
    )
    print(f"loss        {loss:.6f} nats a token")
    print(f"perplexity  {np.exp(loss):.3f}")
    print(f"gradient in the logits' memory: {grad_logits is logits}")
    print(f"largest gradient at a pad:      {np.abs(grad_logits[padded]).max():.1f}")


if __name__ == "__main__":
    main()
