"""fastxent against PyTorch: its sample inputs, its losses, its gradients, its gradcheck.

Two computations of a loss agree to a few units of rounding of the largest term that went into it,
not of the result: log-probabilities are differences. `row_scale` says how large the terms are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
from peers import peer
from support import BFLOAT16, Array, exact_cross_entropy, loss_dtype, random_logits, ulps

import fastxent

torch: Any = peer("torch")
functional: Any = torch.nn.functional

REDUCTIONS = ("mean", "sum", "none")
TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16")
# How far apart two computations may be, in units of their dtype at the largest term. Ours is within
# 4 units in the last place of the result, which is smaller; PyTorch rounds the difference to the
# largest logit, the logarithm, the log-probability, and its product with a weight.
EPSILONS = 4
DOUBLE = EPSILONS * float(np.finfo(np.float64).eps)


def to_numpy(tensor: Any) -> Array:
    """The tensor's numbers; NumPy has its bfloat16 from ml_dtypes."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        array: Array = tensor.contiguous().view(torch.int16).numpy().view(BFLOAT16)
    else:
        array = tensor.numpy()
    return array


def assert_close(got: Any, want: Any, allowed: Any) -> None:
    """No further apart than `allowed`, whatever the two dtypes."""
    theirs = to_numpy(want) if isinstance(want, torch.Tensor) else want
    np.testing.assert_allclose(
        np.asarray(got, np.float64), np.asarray(theirs, np.float64), rtol=0, atol=allowed
    )


def class_axis(logits: Any) -> int:
    """Where PyTorch has the classes: behind the batch axis, where there is one."""
    return 1 if logits.ndim > 1 else 0


def row_scale(logits: Array, labels: Array, axis: int, class_weight: Array | None = None) -> float:
    """The size of the largest terms of a row's loss, and of the logarithms of its gradient.

    No logit is further below the largest one than their spread; logsumexp adds log(n_classes).
    Probabilities count by their mass. A mean of rows is no further off than the worst of them.
    """
    x = logits.astype(np.float64)
    spread = float(np.ptp(x, axis=axis).max(initial=0.0)) + np.log(x.shape[axis]) + 1.0
    mass = 1.0 if labels.dtype.kind in "iu" else float(labels.astype(float).sum(axis).max())
    weight = 1.0 if class_weight is None else float(class_weight.max())
    return spread * max(mass, 1.0) * max(weight, 1.0)


def n_rows_added(logits: Array, axis: int, reduction: str) -> int:
    """A sum adds the errors of its rows."""
    return logits.size // logits.shape[axis] if reduction == "sum" else 1


def torch_loss_and_grads(
    logits: Any, labels: Any, seeds: Any = None, **options: Any
) -> tuple[Any, Any, Any]:
    """PyTorch's loss, its gradient by logits, and that by probabilities where there are any."""
    x = logits.detach().clone().requires_grad_()
    t = labels.detach().clone()
    if t.is_floating_point():
        t.requires_grad_()
    loss = functional.cross_entropy(x, t, **options)
    loss.backward(torch.ones_like(loss) if seeds is None else seeds)
    return loss.detach(), x.grad, t.grad


def our_options(options: dict[str, Any], logits: Any, labels: Any) -> dict[str, Any]:
    """PyTorch's arguments as ours.

    PyTorch's ignore_index is -100 by default, and has no meaning beside probabilities, where we
    refuse one.
    """
    class_weight = options.get("weight")
    return {
        "axis": class_axis(logits),
        "class_weight": None if class_weight is None else to_numpy(class_weight.double()),
        "label_smoothing": options.get("label_smoothing", 0.0),
        "ignore_index": (None if labels.is_floating_point() else options.get("ignore_index", -100)),
        "reduction": options.get("reduction", "mean"),
    }


# ---- PyTorch's own sample inputs


@pytest.fixture(scope="module")
def cross_entropy_samples() -> Any:
    """What PyTorch's own tests call cross_entropy with: a function of the dtype's name."""
    peer("expecttest")  # which PyTorch's tests need
    invocations: Any = peer("torch.testing._internal.common_methods_invocations")
    (info,) = (op for op in invocations.op_db if op.name == "nn.functional.cross_entropy")

    def samples(dtype: str) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        assert getattr(torch, dtype) in info.supported_dtypes("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = list(info.sample_inputs("cpu", getattr(torch, dtype)))
        assert len(found) >= 20
        for sample in found:
            options = dict(sample.kwargs)
            if options.get("weight") is not None:
                # PyTorch tries weights of either sign; we take only those that are not negative.
                options["weight"] = options["weight"].abs()
            yield sample.input, sample.args[0], options

    return samples


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_pytorchs_sample_inputs_give_pytorchs_losses_and_gradients(
    cross_entropy_samples: Any, dtype: str, backend: str
) -> None:
    for logits, labels, options in cross_entropy_samples(dtype):
        want_loss, want_grad, want_to_labels = torch_loss_and_grads(logits, labels, **options)
        x, t = to_numpy(logits), to_numpy(labels)
        ours = our_options(options, logits, labels)
        soft = t.dtype.kind not in "iu"
        loss, *grads = fastxent.cross_entropy_with_grad(
            x, t, **ours, backend=backend, **({"grad_labels": True} if soft else {})
        )
        scale = row_scale(x, t, ours["axis"], ours["class_weight"])
        allowed = EPSILONS * float(torch.finfo(logits.dtype).eps) * scale
        assert_close(loss, want_loss, allowed * n_rows_added(x, ours["axis"], ours["reduction"]))
        assert_close(grads[0], want_grad, allowed)
        if soft:
            assert_close(grads[1], want_to_labels, allowed)
        # 16 bits round away the digits of PyTorch's losses; ours are float32.
        assert np.asarray(loss).dtype == (
            loss_dtype(x.dtype) if ours["reduction"] == "none" else np.float64
        )


def test_pytorchs_negative_class_weights_are_refused(backend: str) -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    weight = torch.tensor([1.0, -1.0, 1.0])
    losses = functional.cross_entropy(logits, labels, weight=weight, reduction="none")
    assert losses[1] < 0
    with pytest.raises(ValueError, match="class_weight"):
        fastxent.cross_entropy(
            logits.numpy(), labels.numpy(), class_weight=weight.numpy(), backend=backend
        )


# ---- gradcheck


class _Ours(torch.autograd.Function):  # type: ignore[misc]
    """Our loss and gradients as a function that PyTorch can differentiate."""

    @staticmethod
    def forward(ctx: Any, logits: Any, labels: Any, options: dict[str, Any]) -> Any:
        soft = labels.is_floating_point()
        results = fastxent.cross_entropy_with_grad(
            logits.numpy(), labels.numpy(), grad_labels=soft, **options
        )
        ctx.axis, ctx.reduction = options["axis"], options["reduction"]
        ctx.save_for_backward(*(torch.from_numpy(grad) for grad in results[1:]))
        return torch.as_tensor(results[0])

    @staticmethod
    def backward(ctx: Any, seeds: Any) -> tuple[Any, ...]:
        if ctx.reduction == "none":
            seeds = seeds.unsqueeze(ctx.axis)
        grads = [seeds * grad for grad in ctx.saved_tensors]
        return (*grads, *[None] * (3 - len(grads)))


def gradcheck(logits: Any, labels: Any, options: dict[str, Any]) -> None:
    """PyTorch's check by central differences, a thousand times as strict as by default.

    Steps of 1e-5 leave an error of 1e-10 times the third derivative, and 1e-11 times the loss.
    """
    x = logits.detach().clone().requires_grad_()
    t = labels.detach().clone()
    if t.is_floating_point():
        t.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, t: _Ours.apply(x, t, options), (x, t), eps=1e-5, atol=1e-7, rtol=1e-6
    )


def test_gradcheck_passes_on_pytorchs_sample_inputs(
    cross_entropy_samples: Any, backend: str
) -> None:
    for logits, labels, options in cross_entropy_samples("float64"):
        gradcheck(logits, labels, our_options(options, logits, labels) | {"backend": backend})


SAMPLE_WEIGHT = np.array([0.5, 0.0, 2.0, 1.25])
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"softcap": 5.0},
    {"z_loss": 0.25},
    {"sample_weight": SAMPLE_WEIGHT},
    {"label_smoothing": 0.1},
    {"class_weight": np.array([0.5, 0.0, 2.0])},
    {"normalizer": 3.0},
    {"mean_over": "valid", "sample_weight": SAMPLE_WEIGHT},
    {"mean_over": "rows", "sample_weight": SAMPLE_WEIGHT},
    {
        "temperature": 1.5,
        "softcap": 8.0,
        "z_loss": 0.125,
        "sample_weight": SAMPLE_WEIGHT,
        "label_smoothing": 0.2,
        "class_weight": np.array([0.5, 0.0, 2.0]),
    },
)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
def test_gradcheck_passes_with_every_option(
    options: dict[str, Any], soft: bool, backend: str
) -> None:
    logits = torch.from_numpy(random_logits((4, 3), np.float64, seed=3))
    labels = (
        torch.from_numpy(np.random.default_rng(4).random((4, 3)) + 0.01)
        if soft
        else torch.tensor([2, 0, 1, 2])
    )
    for reduction in REDUCTIONS:
        if reduction == "none" and ("normalizer" in options or "mean_over" in options):
            continue
        gradcheck(logits, labels, options | {"axis": 1, "reduction": reduction, "backend": backend})


def test_gradcheck_finds_a_wrong_gradient() -> None:
    """Of 1e-4 of a gradient, to show that the check can fail."""
    logits = torch.from_numpy(random_logits((2, 3), np.float64))
    options = {"axis": 1, "reduction": "sum", "temperature": 1.0}

    class Wrong(_Ours):
        @staticmethod
        def backward(ctx: Any, seeds: Any) -> tuple[Any, ...]:
            return tuple(
                None if grad is None else grad * 1.0001 for grad in _Ours.backward(ctx, seeds)
            )

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(
            lambda x: Wrong.apply(x, torch.tensor([0, 2]), options),
            (logits.requires_grad_(),),
            eps=1e-5,
            atol=1e-7,
            rtol=1e-6,
        )


# ---- every combination of PyTorch's options

CLASS_WEIGHT = np.array([0.5, 2.0, 0.0, 1.0, 0.25])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_every_combination_of_options_is_pytorchs(
    soft: bool,
    weighted: bool,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    backend: str,
) -> None:
    if soft and ignore_index >= 0:
        # Neither has rows to ignore where labels are probabilities.
        x, t = np.zeros((2, 3)), np.full((2, 3), 0.25)
        with pytest.raises(RuntimeError, match="ignore_index is not supported"):
            functional.cross_entropy(
                torch.from_numpy(x), torch.from_numpy(t), ignore_index=ignore_index
            )
        with pytest.raises(ValueError, match="ignore_index"):
            fastxent.cross_entropy(x, t, ignore_index=ignore_index, backend=backend)
        return
    for shape in ((5,), (12, 5), (3, 5, 4), (2, 5, 3, 2)):
        logits = torch.from_numpy(random_logits(shape, np.float64, seed=5))
        batch = shape[:1] + shape[2:] if len(shape) > 1 else ()
        rng = np.random.default_rng(6)
        labels = torch.from_numpy(
            (rng.random(shape) * (rng.random(shape) < 0.8)).clip(1e-3)
            if soft
            else np.asarray(rng.integers(0, 5, batch))
        )
        if not soft and shape == (5,):
            labels = torch.tensor(1)  # a row that counts
        options = {
            "weight": torch.from_numpy(CLASS_WEIGHT) if weighted else None,
            "label_smoothing": label_smoothing,
            "ignore_index": ignore_index,
            "reduction": reduction,
        }
        want_loss, want_grad, want_to_labels = torch_loss_and_grads(logits, labels, **options)
        ours = our_options(options, logits, labels)
        x, t = logits.numpy(), labels.numpy()
        loss, *grads = fastxent.cross_entropy_with_grad(
            x, t, **ours, grad_labels=soft, backend=backend
        )
        allowed = DOUBLE * row_scale(x, t, ours["axis"], ours["class_weight"])
        assert_close(loss, want_loss, allowed * n_rows_added(x, ours["axis"], reduction))
        assert_close(grads[0], want_grad, allowed)
        if soft:
            assert_close(grads[1], want_to_labels, allowed)


# ---- what PyTorch has no option for, spelled out and differentiated


def formula(
    x: Any,
    b: Any,
    *,
    class_weight: Any = None,
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> Any:
    """The losses of rows in PyTorch; b is 1 at the label, or the probabilities."""
    y = (x if softcap is None else softcap * torch.tanh(x / softcap)) / temperature
    lse = torch.logsumexp(y, 1)
    t = (1 - label_smoothing) * b + label_smoothing / x.shape[1]
    if class_weight is not None:
        t = t * torch.from_numpy(class_weight)
    losses = (t * (lse[:, None] - y)).sum(1) + z_loss * lse**2
    return losses if sample_weight is None else losses * torch.from_numpy(sample_weight)


def rows_with_labels(soft: bool) -> tuple[Array, Array, Any]:
    """Logits, labels, and the labels as the formula wants them."""
    logits = random_logits((12, 5), np.float64, seed=7)
    rng = np.random.default_rng(8)
    if soft:
        labels = rng.random((12, 5))
        return logits, labels, torch.from_numpy(labels)
    indices = rng.integers(0, 5, 12)
    return logits, indices, functional.one_hot(torch.from_numpy(indices), 5).double()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 0.5])
@pytest.mark.parametrize("softcap", [None, 4.0, 50.0])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_softcap_and_z_loss_follow_the_formula(
    temperature: float, softcap: float | None, z_loss: float, others: bool, soft: bool, backend: str
) -> None:
    logits, labels, b = rows_with_labels(soft)
    options: dict[str, Any] = {"temperature": temperature, "softcap": softcap, "z_loss": z_loss}
    if others:
        options |= {
            "class_weight": CLASS_WEIGHT,
            "sample_weight": np.linspace(0.0, 2.0, 12),
            "label_smoothing": 0.1,
        }
    x = torch.from_numpy(logits).requires_grad_()
    t = b.clone().requires_grad_(soft)
    losses = formula(x, t, **options)
    losses.sum().backward()
    got, *grads = fastxent.cross_entropy_with_grad(
        logits, labels, **options, reduction="none", grad_labels=soft, backend=backend
    )
    # z_loss squares what the other terms have once, and its gradient has it once.
    lse_scale = (float(np.abs(logits).max()) + np.log(5)) / temperature
    scale = 5 * (lse_scale + z_loss * lse_scale**2)  # the mass of a row is at most 5
    assert_close(got, losses, DOUBLE * scale)
    # Dividing by a temperature multiplies gradients, tanh has them no larger.
    assert_close(grads[0], x.grad, DOUBLE * scale / temperature)
    if soft:
        assert_close(grads[1], t.grad, DOUBLE * scale)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mean_over", ["weight", "valid", "rows"])
def test_the_three_means_divide_by_what_they_say(mean_over: str, soft: bool, backend: str) -> None:
    logits, labels, b = rows_with_labels(soft)
    sample_weight = np.linspace(0.0, 2.0, 12)
    ignored = np.zeros(12, bool) if soft else labels == 3
    assert soft or 0 < ignored.sum() < 12
    weights = sample_weight if soft else sample_weight * CLASS_WEIGHT[labels]
    denominator = {"weight": weights[~ignored].sum(), "valid": 12 - ignored.sum(), "rows": 12}
    x = torch.from_numpy(logits).requires_grad_()
    losses = formula(x, b, class_weight=CLASS_WEIGHT, sample_weight=sample_weight)
    mean = losses[torch.from_numpy(~ignored)].sum() / denominator[mean_over]
    mean.backward()
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits,
        labels,
        class_weight=CLASS_WEIGHT,
        sample_weight=sample_weight,
        ignore_index=None if soft else 3,
        mean_over=mean_over,
        backend=backend,
    )
    allowed = DOUBLE * row_scale(logits, labels, 1, CLASS_WEIGHT)
    assert_close(loss, mean, allowed)
    assert_close(grad_logits, x.grad, allowed)


# ---- divergence, second derivatives, statistics


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_divergence_is_pytorchs(axis: int, temperature: float, backend: str) -> None:
    """PyTorch's "batchmean" divides by the length of the first axis: rows have to come first."""
    teacher = random_logits((3, 4, 5), np.float64, seed=9)
    student = random_logits((3, 4, 5), np.float64, seed=10)
    n_classes = student.shape[axis]

    def log_probs(logits: Any) -> Any:
        return torch.log_softmax(logits.movedim(axis, -1).reshape(-1, n_classes) / temperature, 1)

    x = torch.from_numpy(student).requires_grad_()
    want = functional.kl_div(
        log_probs(x),
        log_probs(torch.from_numpy(teacher)),
        log_target=True,
        reduction="batchmean",
    )
    want.backward()
    loss, grad_logits = fastxent.kl_divergence_with_logits_and_grad(
        teacher, student, axis=axis, temperature=temperature, backend=backend
    )
    assert loss == fastxent.kl_divergence_with_logits(
        teacher, student, axis=axis, temperature=temperature, backend=backend
    )
    spread = (np.ptp(teacher) + np.ptp(student)) / temperature + 2 * np.log(n_classes)
    assert_close(loss, want, DOUBLE * spread)
    assert_close(grad_logits, x.grad, DOUBLE * max(1.0, 1 / temperature))


def test_a_row_without_mass_has_pytorchs_gradient_by_its_probabilities(backend: str) -> None:
    """It costs nothing, but more mass would: at class j, w_j times -log_softmax_j."""
    logits = random_logits((2, 5), np.float64, seed=16)
    labels = np.zeros((2, 5))
    labels[1, 2] = 1.0  # where the class weight is 0
    want_loss, want_grad, want_to_labels = torch_loss_and_grads(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        weight=torch.from_numpy(CLASS_WEIGHT),
        reduction="sum",
    )
    loss, grad_logits, to_labels = fastxent.cross_entropy_with_grad(
        logits,
        labels,
        class_weight=CLASS_WEIGHT,
        reduction="sum",
        grad_labels=True,
        backend=backend,
    )
    assert loss == want_loss == 0
    assert not grad_logits.any()
    assert not want_grad.any()
    assert np.count_nonzero(to_labels) == 8
    assert_close(to_labels, want_to_labels, DOUBLE * row_scale(logits, labels, 1, CLASS_WEIGHT))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_with_the_hessian_are_those_of_double_backward(
    weighted: bool, label_smoothing: float, soft: bool, reduction: str, backend: str
) -> None:
    for shape in ((12, 5), (3, 5, 4)):
        logits = random_logits(shape, np.float64, seed=11)
        vectors = random_logits(shape, np.float64, seed=12)
        rng = np.random.default_rng(13)
        labels = rng.random(shape) if soft else rng.integers(0, 5, shape[:1] + shape[2:])
        options: dict[str, Any] = {
            "weight": torch.from_numpy(CLASS_WEIGHT) if weighted else None,
            "label_smoothing": label_smoothing,
            "ignore_index": -100 if soft else 3,
            "reduction": reduction,
        }
        target = torch.from_numpy(labels)

        def loss(x: Any, target: Any = target, options: dict[str, Any] = options) -> Any:
            return functional.cross_entropy(x, target, **options)

        _, want = torch.autograd.functional.hvp(
            loss, torch.from_numpy(logits), torch.from_numpy(vectors)
        )
        ours = our_options(options, target, target) | {"axis": 1}
        got = fastxent.cross_entropy_hvp(logits, labels, vectors, **ours, backend=backend)
        mass = 2.0 * (5.0 if soft else 1.0)
        assert_close(got, want, DOUBLE * mass * 2 * np.abs(vectors).max())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_diagonal_is_that_of_pytorchs_hessian(reduction: str, soft: bool, backend: str) -> None:
    logits = random_logits((4, 5), np.float64, seed=14)
    labels = np.random.default_rng(15).random((4, 5)) if soft else np.array([0, 3, 1, 4])
    options: dict[str, Any] = {
        "weight": torch.from_numpy(CLASS_WEIGHT),
        "label_smoothing": 0.1,
        "reduction": reduction,
    }
    target = torch.from_numpy(labels)
    hessian = torch.autograd.functional.hessian(
        lambda x: functional.cross_entropy(x, target, **options), torch.from_numpy(logits)
    )
    _, want_grad, _ = torch_loss_and_grads(torch.from_numpy(logits), target, **options)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(
        logits,
        labels,
        class_weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        reduction=reduction,
        hess_factor=2.0,
        backend=backend,
    )
    allowed = DOUBLE * row_scale(logits, labels, 1, CLASS_WEIGHT)
    assert_close(grad_logits, want_grad, allowed)
    assert_close(hess_logits, 2 * hessian.reshape(20, 20).diag().reshape(4, 5), allowed)


def test_statistics_of_rows_are_those_of_pytorchs_distribution(backend: str) -> None:
    logits, labels, _ = rows_with_labels(soft=False)
    x, t = torch.from_numpy(logits), torch.from_numpy(labels)
    distribution = torch.distributions.Categorical(logits=x)
    stats = fastxent.row_stats(logits, labels, backend=backend)
    allowed = DOUBLE * row_scale(logits, labels, 1)
    assert_close(stats.losses, functional.cross_entropy(x, t, reduction="none"), allowed)
    assert_close(stats.logsumexp, torch.logsumexp(x, 1), DOUBLE * np.abs(logits).max())
    assert_close(stats.label_log_prob, distribution.log_prob(t), allowed)
    assert_close(stats.entropy, distribution.entropy(), allowed)
    assert_close(stats.max_prob, distribution.probs.max(1).values, DOUBLE)
    np.testing.assert_array_equal(stats.argmax, x.argmax(1).numpy())
    np.testing.assert_array_equal(stats.correct, (x.argmax(1) == t).numpy())


# ---- where PyTorch is wrong. Its value is asserted too, so that we notice when it is mended.


def exact_loss(logits: list[float], measure: list[float]) -> Array:
    """sum_j t_j * (logsumexp(x) - x_j) of 60 digits; a masked class without mass costs nothing."""
    with mpmath.workdps(60):
        x = [mpmath.mpf(value) for value in logits]
        total = mpmath.fsum(mpmath.exp(value) for value in x)
        loss = mpmath.fsum(
            mpmath.mpf(t) * (mpmath.log(total) - value)
            for value, t in zip(x, measure, strict=True)
            if t
        )
        return np.array([np.longdouble(mpmath.nstr(loss, 30))])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_loses_the_loss_of_a_confident_row(dtype: str, backend: str) -> None:
    logits = np.array([[40.0, 0.0]], dtype)
    labels = np.array([0])
    theirs, their_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    )
    assert theirs.item() == 0.0
    assert their_grad[0, 0].item() == 0.0
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    assert ulps(losses, exact_loss([40.0, 0.0], [1.0, 0.0]), dtype) <= 4
    assert ulps(grad_logits, exact_cross_entropy(logits, labels)[1], dtype) <= 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_has_nan_where_a_masked_class_has_no_probability(dtype: str, backend: str) -> None:
    logits = np.array([[0.0, 1.0, -np.inf]], dtype)
    labels = np.array([[0.5, 0.5, 0.0]], dtype)
    theirs, their_grad, their_to_labels = torch_loss_and_grads(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    )
    assert torch.isnan(theirs).all()
    losses, grad_logits, to_labels = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", grad_labels=True, backend=backend
    )
    assert ulps(losses, exact_loss([0.0, 1.0], [0.5, 0.5]), dtype) <= 4
    # Its gradient is right by its formula, not by differentiating the NaN.
    assert_close(grad_logits, their_grad, EPSILONS * np.finfo(dtype).eps)
    assert their_to_labels[0, 2].item() == np.inf
    assert to_labels[0, 2] == 0


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_smooths_onto_masked_classes(dtype: str, soft: bool, backend: str) -> None:
    """A mass on what cannot occur costs infinitely much; ours lies on the other classes."""
    logits = np.array([[0.0, 1.0, -np.inf, 2.0]], dtype)
    labels = np.array([[1.0, 0.0, 0.0, 0.0]], dtype) if soft else np.array([0])
    theirs, their_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        label_smoothing=0.25,
        reduction="none",
    )
    assert theirs.item() == np.inf
    assert their_grad[0, 2].item() == -0.0625
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, label_smoothing=0.25, reduction="none", backend=backend
    )
    share = 0.25 / 3
    measure = [0.75 + share, share, share]
    assert ulps(losses, exact_loss([0.0, 1.0, 2.0], measure), dtype) <= 4
    assert grad_logits[0, 2] == 0
    # Without the masked class PyTorch agrees.
    three, three_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits[:, [0, 1, 3]]),
        torch.from_numpy(labels[:, [0, 1, 3]] if soft else labels),
        label_smoothing=0.25,
        reduction="none",
    )
    allowed = EPSILONS * np.finfo(dtype).eps
    assert_close(losses, three, 3 * allowed)
    assert_close(grad_logits[:, [0, 1, 3]], three_grad, allowed)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_pytorch_has_a_nan_gradient_in_an_ignored_row_of_nan(
    label_smoothing: float, backend: str
) -> None:
    logits = np.array([[np.nan, 0.0, 1.0], [1.0, 2.0, 3.0]])
    labels = np.array([1, 0])
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "ignore_index": 1}
    theirs, their_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits), torch.from_numpy(labels), **options
    )
    assert torch.isnan(their_grad[0]).all()
    loss, grad_logits = fastxent.cross_entropy_with_grad(logits, labels, **options, backend=backend)
    assert_close(loss, theirs, DOUBLE * 4)
    assert_close(grad_logits[1], their_grad[1], DOUBLE)
    assert not grad_logits[0].any()


def test_pytorchs_mean_over_nothing_has_a_nan_gradient(backend: str) -> None:
    """Both means are NaN. Ours has no gradient, and other answers by request."""
    logits, labels = np.array([[0.0, 1.0, 3.0]]), np.array([1])
    class_weight = np.array([1.0, 0.0, 1.0])
    theirs, their_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits), torch.from_numpy(labels), weight=torch.from_numpy(class_weight)
    )
    assert torch.isnan(theirs)
    assert torch.isnan(their_grad).all()

    def ours(empty: str) -> tuple[Any, Array]:
        return fastxent.cross_entropy_with_grad(
            logits, labels, class_weight=class_weight, empty=empty, backend=backend
        )

    loss, grad_logits = ours("nan")
    assert np.isnan(loss)
    assert not grad_logits.any()
    loss, grad_logits = ours("zero")
    assert loss == 0.0
    assert not grad_logits.any()
    with pytest.raises(ValueError, match="nothing"):
        ours("raise")


def test_pytorchs_sum_of_float16_ends_at_65504(backend: str) -> None:
    logits = np.zeros((16384, 128), np.float16)
    logits[:, 0] = 1.0
    labels = np.full(16384, 1)
    assert functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)) == np.inf
    loss = fastxent.cross_entropy(logits, labels, backend=backend)
    want = exact_loss([1.0] + [0.0] * 127, [0.0, 1.0] + [0.0] * 126)
    assert ulps(np.array([loss]), want, np.float32) <= 2


# ---- what both refuse, and what only one does


def test_a_label_that_is_no_class_is_refused_by_both(backend: str) -> None:
    logits = np.zeros((2, 3))
    for label in (3, -1):
        labels = np.array([0, label])
        with pytest.raises(IndexError):
            functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        with pytest.raises(ValueError, match=str(label)):
            fastxent.cross_entropy(logits, labels, backend=backend)


def test_minus_100_is_ignored_by_pytorch_unasked_and_by_us_on_request(backend: str) -> None:
    logits, labels = random_logits((3, 4), np.float64), np.array([1, -100, 2])
    want, want_grad, _ = torch_loss_and_grads(torch.from_numpy(logits), torch.from_numpy(labels))
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, ignore_index=-100, backend=backend
    )
    assert_close(loss, want, DOUBLE * row_scale(logits, labels, 1))
    assert_close(grad_logits, want_grad, DOUBLE)
    with pytest.raises(ValueError, match="-100"):
        fastxent.cross_entropy(logits, labels, backend=backend)


@pytest.mark.parametrize(("reduction", "soft"), list(product(REDUCTIONS, [False, True])))
def test_empty_batches_give_what_pytorch_gives(reduction: str, soft: bool, backend: str) -> None:
    logits = np.zeros((0, 3))
    labels = np.zeros((0, 3)) if soft else np.zeros(0, np.int64)
    want, want_grad, _ = torch_loss_and_grads(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction=reduction
    )
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction=reduction, backend=backend
    )
    np.testing.assert_array_equal(loss, want.numpy())  # the mean: NaN
    assert grad_logits.shape == tuple(want_grad.shape)
