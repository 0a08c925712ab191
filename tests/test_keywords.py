"""Keywords of other libraries: an error that names ours, and nothing that a plain call sees."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from support import random_logits

import fastxent
from fastxent import _keywords

LOGITS = random_logits((2, 3))
LABELS = np.array([0, 2])
STATE = fastxent.partial(LOGITS, LABELS)

# The functions, with positional arguments for which a call succeeds.
FUNCTIONS: dict[Any, tuple[Any, ...]] = {
    fastxent.cross_entropy: (LOGITS, LABELS),
    fastxent.cross_entropy_with_grad: (LOGITS, LABELS),
    fastxent.cross_entropy_grad_hess: (LOGITS, LABELS),
    fastxent.cross_entropy_hvp: (LOGITS, LABELS, LOGITS),
    fastxent.row_stats: (LOGITS, LABELS),
    fastxent.kl_divergence_with_logits: (LOGITS, LOGITS),
    fastxent.kl_divergence_with_logits_and_grad: (LOGITS, LOGITS),
    fastxent.softmax_cross_entropy_with_logits: (fastxent.softmax(LOGITS), LOGITS),
    fastxent.sparse_softmax_cross_entropy_with_logits: (LABELS, LOGITS),
    fastxent.partial: (LOGITS, LABELS),
    fastxent.finish: (STATE,),
    fastxent.finish_grad: (STATE, LOGITS, LABELS),
    fastxent.softmax: (LOGITS,),
    fastxent.log_softmax: (LOGITS,),
    fastxent.logsumexp: (LOGITS,),
}


@pytest.mark.parametrize(
    ("keyword", "advice"),
    [
        ("weight", "here it is class_weight (one number a class) or sample_weight"),
        ("weights", "here it is class_weight"),
        ("dim", "here it is axis"),
        ("input", "here it is logits"),
        ("target", "here it is labels"),
        ("y_true", "here it is labels"),
        ("y_pred", "here it is logits"),
        ("ignore_class", "here it is ignore_index"),
        ("size_average", "here it is reduction"),
        ("reduce", "here it is reduction"),
        ("smoothing", "here it is label_smoothing"),
        ("num_threads", "here it is n_threads"),
        ("sample_weights", "is it sample_weight?"),
        ("class_weights", "is it class_weight?"),
        ("lable_smoothing", "is it label_smoothing?"),
        ("keepdims", "np.expand_dims(losses, axis)"),
        ("keepdim", "np.expand_dims(losses, axis)"),
        ("from_logits", "logits are always logits; of probabilities p pass np.log(p)"),
        ("num_classes", "it is the length of logits along axis"),
        ("return_grad", "cross_entropy_with_grad"),
        ("where", "np.where(mask, logits, -np.inf)"),
        ("zzz", "it takes logits, labels, axis, "),
    ],
)
def test_a_keyword_of_another_library_names_ours(keyword: str, advice: str) -> None:
    for arguments in ((LOGITS, LABELS), (LOGITS,), ()):
        with pytest.raises(TypeError) as error:
            fastxent.cross_entropy(*arguments, **{keyword: 1})
        assert str(error.value).startswith(f"cross_entropy has no argument {keyword!r}; {advice}")


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_refuses_what_it_does_not_have(function: Any) -> None:
    arguments = FUNCTIONS[function]
    function(*arguments)
    known = inspect.signature(function).parameters
    for keyword in ("dim", "weight", "target", "zzz"):
        for given in (arguments, arguments[:1], ()):
            with pytest.raises(TypeError) as error:
                function(*given, **{keyword: 1})
            message = str(error.value)
            assert message.startswith(f"{function.__name__} has no argument {keyword!r}; ")
            named = message.split("; ")[1]
            assert any(name in named for name in known), message


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_signatures_show_the_arguments_there_are(function: Any) -> None:
    parameters = inspect.signature(function).parameters.values()
    kinds = {each.kind for each in parameters}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    needed = [each.name for each in parameters if each.default is inspect.Parameter.empty]
    assert needed == list(inspect.signature(function).parameters)[: len(needed)]
    assert len(needed) == len(FUNCTIONS[function]) - (function is fastxent.row_stats)
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_an_argument_that_is_not_passed_is_named(function: Any) -> None:
    arguments = FUNCTIONS[function]
    names = list(inspect.signature(function).parameters)
    needed = len(arguments) - (function is fastxent.row_stats)
    for n in range(needed):
        with pytest.raises(TypeError, match=r"missing|_Missing") as error:
            function(*arguments[:n])
        assert any(name in str(error.value) for name in names[n:needed])


def test_what_is_called_otherwise_is_an_argument_of_ours() -> None:
    known = {name for function in FUNCTIONS for name in inspect.signature(function).parameters}
    for ours in _keywords._HERE.values():
        assert set(ours.split()) <= known
    known.remove("keepdims")  # logsumexp alone has it
    assert not known & (_keywords._HERE.keys() | _keywords._OTHERWISE.keys())


def test_a_word_means_what_the_function_has() -> None:
    with pytest.raises(TypeError, match="'keepdim'; here it is keepdims"):
        fastxent.logsumexp(LOGITS, keepdim=True)  # type: ignore[arg-type]
