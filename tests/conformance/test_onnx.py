"""The node tests of ONNX: the vectors that every ONNX runtime is checked with.

The wheels of ONNX have them up to version 1.22. A folder `*_expanded` has the vectors of the folder
without that ending, for a model of simpler operators; the attributes are read from the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import Array, missing, peer
from support import ulps

import fastxent

onnx = peer("onnx")
NODE_TESTS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
if not NODE_TESTS.is_dir():
    missing(f"onnx {onnx.__version__} is without node tests, which wheels before 1.23 have")

# The vectors are NumPy's, of float32, and up to 3 ULP from the exact values; fastxent allows itself
# up to 4.
ULPS = 3 + 4


def folders(*prefixes: str) -> list[str]:
    return sorted(path.name for path in NODE_TESTS.iterdir() if path.name.startswith(prefixes))


CROSS_ENTROPY = folders("test_sce_")
LIKELIHOOD = folders("test_nllloss_")
SOFTMAX = folders("test_softmax_", "test_logsoftmax_")
# Those with the second output.
WITH_LOG_PROBS = [name for name in CROSS_ENTROPY if "_log_prob" in name]


@dataclass(frozen=True)
class NodeTest:
    operator: str
    attributes: dict[str, Any]
    inputs: list[Array]
    outputs: list[Array]

    @property
    def options(self) -> dict[str, Any]:
        """The node's attributes and weights in fastxent's words; ONNX has the classes on axis 1."""
        assert self.attributes.keys() <= {"reduction", "ignore_index"}
        return {
            "axis": 1,
            "reduction": self.attributes.get("reduction", b"mean").decode(),
            "ignore_index": self.attributes.get("ignore_index"),
            "class_weight": self.inputs[2] if len(self.inputs) == 3 else None,
        }

    @property
    def counted(self) -> Array:
        """The labels that are not ignored."""
        labels = self.inputs[1]
        ignore_index = self.attributes.get("ignore_index")
        if ignore_index is None:
            return np.ones(labels.shape, np.bool_)
        counted: Array = labels != ignore_index
        return counted


def load(name: str) -> NodeTest:
    model = onnx.load(NODE_TESTS / name.partition("_expanded")[0] / "model.onnx")
    (node,) = model.graph.node
    (opset,) = model.opset_import
    assert opset.version >= 13  # before 13, Softmax took its input for a matrix
    assert list(node.input) == [value.name for value in model.graph.input]
    assert list(node.output) == [value.name for value in model.graph.output]
    (data,) = NODE_TESTS.joinpath(name).glob("test_data_set_*")
    assert len(list(data.iterdir())) == len(node.input) + len(node.output)

    def tensor(kind: str, number: int) -> Array:
        array: Array = onnx.numpy_helper.to_array(onnx.load_tensor(data / f"{kind}_{number}.pb"))
        return array

    return NodeTest(
        node.op_type,
        {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
        [tensor("input", number) for number in range(len(node.input))],
        [tensor("output", number) for number in range(len(node.output))],
    )


def assert_is_output(got: Any, want: Array) -> None:
    assert got.shape == want.shape
    assert ulps(np.asarray(got), want.astype(np.longdouble), np.float32) <= ULPS


def test_no_folder_is_left_out() -> None:
    assert len(CROSS_ENTROPY) == 68
    assert len(LIKELIHOOD) == 36
    assert len(SOFTMAX) == 42
    assert len(WITH_LOG_PROBS) == 34


@pytest.mark.parametrize("name", CROSS_ENTROPY)
def test_cross_entropy_gives_the_outputs_of_softmax_cross_entropy_loss(
    backend: str, name: str
) -> None:
    test = load(name)
    assert test.operator == "SoftmaxCrossEntropyLoss"
    logits, labels = test.inputs[:2]
    loss = fastxent.cross_entropy(logits, labels, backend=backend, **test.options)
    assert_is_output(loss, test.outputs[0])
    loss, _ = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, **test.options)
    assert_is_output(loss, test.outputs[0])
    if name in WITH_LOG_PROBS:
        assert_is_output(fastxent.log_softmax(logits, axis=1, backend=backend), test.outputs[1])
    assert len(test.outputs) == 1 + (name in WITH_LOG_PROBS)


@pytest.mark.parametrize("name", WITH_LOG_PROBS)
def test_log_probabilities_are_logits_of_the_same_loss(backend: str, name: str) -> None:
    """The negative log-likelihood as it is meant to be used.

    The optional output of SoftmaxCrossEntropyLoss is what NegativeLogLikelihoodLoss takes. Its rows
    are normalised, so its log_softmax is itself and cross_entropy is that likelihood.
    """
    test = load(name)
    loss, log_probs = test.outputs
    got = fastxent.cross_entropy(log_probs, test.inputs[1], backend=backend, **test.options)
    assert_is_output(got, loss)


@pytest.mark.parametrize("name", LIKELIHOOD)
def test_cross_entropy_without_its_logsumexp_is_the_negative_log_likelihood(
    backend: str, name: str
) -> None:
    """What can be said of vectors that no softmax could have made.

    NegativeLogLikelihoodLoss is -w_y x_y, for log-probabilities x. These tests feed it with random
    numbers in [0, 1), whose exponentials do not add up to 1; cross_entropy would normalise them:

        loss_i = w_y (logsumexp(x) - x_y) = -w_y x_y + w_y logsumexp(x)

    So the last term is taken off, reduced here as ONNX reduces: for a mean, the weighted mean of
    logsumexp(x). That leaves the choice of the label, the weights, the ignored rows, the layout and
    the reduction of cross_entropy to be checked. It is done in float64, because the difference
    would cost float32 its last digits.
    """
    test = load(name)
    assert test.operator == "NegativeLogLikelihoodLoss"
    options = test.options
    logits, labels = test.inputs[0].astype(np.float64), test.inputs[1]
    weights = test.counted.astype(np.float64)
    if options["class_weight"] is not None:
        weights[test.counted] = options["class_weight"][labels[test.counted]]
    normaliser = weights * fastxent.logsumexp(logits, axis=1, backend=backend)
    if options["reduction"] != "none":
        normaliser = normaliser.sum()
    if options["reduction"] == "mean":
        normaliser /= weights.sum()
    loss = fastxent.cross_entropy(logits, labels, backend=backend, **options)
    assert_is_output(loss - normaliser, test.outputs[0])


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_and_log_softmax_give_the_outputs_of_their_operators(
    backend: str, name: str
) -> None:
    test = load(name)
    assert test.attributes.keys() <= {"axis"}
    function = {"Softmax": fastxent.softmax, "LogSoftmax": fastxent.log_softmax}[test.operator]
    (logits,), (want,) = test.inputs, test.outputs
    got = function(logits, axis=test.attributes.get("axis", -1), backend=backend)
    assert_is_output(got, want)
