"""Keywords that a function does not have: which of its own is meant.

A function that ends in `**unknown: Never` calls `refuse(unknown, ...)` and costs 25 ns more for it;
a wrapper that waited for the TypeError would cost 110 (a plain call takes 2500). To mypy no such
keyword exists, and `own_keywords` hides them from `inspect.signature`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from ._conversion import MISSING

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What other libraries, and habits, call a keyword of ours; of several, those that a function has.
_HERE: Final = {
    "class_axis": "axis",
    "class_dim": "axis",
    "denominator": "normalizer",
    "dim": "axis",
    "ignore_class": "ignore_index",
    "ignore_label": "ignore_index",
    "input": "logits",
    "inputs": "logits",
    "keepdim": "keepdims",
    "label": "labels target_logits",
    "logit_softcap": "softcap",
    "logit_softcapping": "softcap",
    "lse_square_scale": "z_loss",
    "n_jobs": "n_threads",
    "num_items_in_batch": "normalizer",
    "num_threads": "n_threads",
    "pos_weight": "class_weight",
    "preds": "logits",
    "reduce": "reduction",
    "size_average": "reduction",
    "smoothing": "label_smoothing",
    "target": "labels target_logits",
    "targets": "labels target_logits",
    "tau": "temperature",
    "threads": "n_threads",
    "weight": "class_weight sample_weight",
    "weights": "class_weight sample_weight",
    "x": "logits",
    "y": "labels target_logits",
    "y_pred": "logits",
    "y_true": "labels target_logits",
}

_MEANINGS: Final = {
    "class_weight": "class_weight (one number a class)",
    "sample_weight": "sample_weight (one number a row)",
}

# What has no keyword of its own.
_OTHERWISE: Final = {
    "dtype": "results have the type that follows from logits: convert what you pass, or what comes",
    "from_logits": "logits are always logits; of probabilities p pass np.log(p)",
    "grad": "cross_entropy_with_grad returns the gradient too",
    "keepdim": "np.expand_dims(losses, axis) of what reduction='none' returns keeps the axis",
    "keepdims": "np.expand_dims(losses, axis) of what reduction='none' returns keeps the axis",
    "log_target": "target_logits are logits, and logarithms of probabilities are logits too",
    "mask": "np.where(mask, logits, -np.inf) leaves classes out, and sample_weight=mask rows",
    "n_classes": "it is the length of logits along axis",
    "num_classes": "it is the length of logits along axis",
    "return_grad": "cross_entropy_with_grad returns the gradient too",
    "where": "np.where(mask, logits, -np.inf) leaves classes out, and sample_weight=mask rows",
}


def own_keywords(function: _Function) -> _Function:
    """The function, its signature without `**unknown`.

    What it needs is MISSING where it is not passed: Python would complain of that first, and the
    caller of f(x, target=y) would not hear of `target`.
    """
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    needed = [each for each in own if each.kind is each.POSITIONAL_OR_KEYWORD]
    function.__defaults__ = tuple(
        MISSING if each.default is each.empty else each.default for each in needed
    )
    return function


def refuse(unknown: Mapping[str, object], function: Callable[..., Any]) -> TypeError:
    """The error for keywords that a function does not have."""
    known = list(inspect.signature(function).parameters)
    keyword = next(iter(unknown))
    return TypeError(f"{function.__name__} has no argument {keyword!r}; {_advice(keyword, known)}")


def _advice(keyword: str, known: list[str]) -> str:
    word = keyword.lower()
    here = [each for each in _HERE.get(word, "").split() if each in known]
    if here:
        return f"here it is {' or '.join(_MEANINGS.get(each, each) for each in here)}"
    if word in _OTHERWISE:
        return _OTHERWISE[word]
    similar: list[str] = []
    with contextlib.suppress(ImportError):  # no module is found any more, as after chroot
        import difflib

        similar = difflib.get_close_matches(word, known, 1)
    return f"is it {similar[0]}?" if similar else f"it takes {', '.join(known)}"
