"""Do the features forget? A linear probe on what the last layer reads.

Editing the head alone hides a class from the answers and leaves it in the features, where a linear probe finds it
again; both levels belong in every report.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from zsu_fast.evaluate.batch_size import BatchSize, check_batch_size
from zsu_fast.evaluate.given import check_labels, check_seed, check_targets
from zsu_fast.evaluate.images import Images, images_of, length
from zsu_fast.evaluate.inference import Progress, inference_mode, logits_of, run, run_batches
from zsu_fast.evaluate.rows import Rows
from zsu_fast.extras import require


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a probe, fractions: on the target classes and on the others; None without such images.

    rates: float64 [M], for each test image how often it gets its class: 0 or 1, or a mean over draws.
    """

    forget_accuracy: float | None
    retain_accuracy: float | None
    rates: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, rates: Tensor, labels: Tensor, targets: Sequence[int]) -> ProbeResult:
        """From the rates of test images and their labels int64 [M]."""
        forget = torch.isin(labels, torch.tensor(list(targets)))
        own, others = (float(part.mean()) if part.numel() else None for part in (rates[forget], rates[~forget]))
        return cls(own, others, rates)

    def to_dict(self) -> dict[str, float | None]:
        """The accuracies, as JSON can carry them."""
        return {"forget_accuracy": self.forget_accuracy, "retain_accuracy": self.retain_accuracy}


class LastLinear(TorchFunctionMode):
    """Keeps what the ``linear`` that ran last had: pooled input, weight, bias, and its output. Sees functional code as
    well as ``nn.Linear``.
    """

    input: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    output: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear:
            return func(*args, **kwargs)
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        # Pooled (copied) at once: the model may change its input in place afterwards.
        self.input, self.weight, self.bias = _pooled(given["input"], None), given["weight"], given.get("bias")
        self.output = func(*args, **kwargs)
        return self.output


def features(
    model: nn.Module,
    images: Images,
    layer: str | None = None,
    batch_size: BatchSize = 256,
    progress: Progress | None = None,
) -> Tensor:
    """What the last linear layer of a model reads, without editing the model.

    Args:
        model: any module; evaluation mode, no gradients, everything put back as it was.
        images: [N, ...], what the model takes, or whatever they can be read from (`zsu_fast.evaluate.images_of`).
        layer: name of a module, to take *its* input instead. Default: the last ``linear`` that runs, be it an
            ``nn.Linear`` or a functional one.
        batch_size: images in one forward pass; "auto": 256, or as many as there is memory for.
        progress: called as ``progress(done, total, text)`` after every batch.

    Returns:
        float32 [N, D] on the CPU. The input of a linear layer is averaged over its tokens, that of a convolution
        over space, any other is flattened.

    Raises:
        ValueError: no linear layer ran, the named layer does not exist or did not run, or its input does not have
            one row for each image.
    """
    images, _ = images_of("images", images)
    found = Rows(length(images))
    _capture(model, images, layer, batch_size, progress, lambda captured, output: found.add(captured))
    return found.tensor() if len(found) else torch.empty(0, 0)


def features_and_logits(
    model: nn.Module,
    images: Images,
    layer: str | None = None,
    batch_size: BatchSize = 256,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`features` and the logits [N, classes] of the same images, on the CPU, in one pass."""
    images, _ = images_of("images", images)
    found, logits = Rows(length(images)), Rows(length(images))

    def keep(captured: Tensor, output: object) -> None:
        found.add(captured)
        logits.add(logits_of(output).cpu())

    _capture(model, images, layer, batch_size, progress, keep)
    if not len(found):
        return torch.empty(0, 0), torch.empty(0, 0)
    return found.tensor(), logits.tensor()


def _capture(
    model: nn.Module,
    images: Images,
    layer: str | None,
    batch_size: BatchSize,
    progress: Progress | None,
    keep: Callable[[Tensor, object], None],
) -> None:
    """Run the model and call ``keep(pooled input of the layer, output)`` for every batch, see :func:`features`."""
    check_batch_size(batch_size)
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ValueError(f"layer must be the name of a module of the model, got {layer!r}; see model.named_modules()")

    def read(batch: Tensor) -> tuple[Tensor | None, object, int]:
        found = _read_last_linear(model, batch) if layer is None else _read_named(model, batch, modules[layer])
        return *found, len(batch)

    with inference_mode(model):
        for captured, output, count in run_batches(read, model, images, batch_size, progress, "features"):
            if captured is None:
                raise ValueError(
                    "no linear layer ran in the model: name with layer= the module whose input is meant"
                    if layer is None
                    else f"layer {layer!r} did not run, or was not given a tensor"
                )
            if captured.shape[0] != count:
                raise ValueError(
                    f"the input of the layer must have one row for each of the {count} images, "
                    f"got shape {list(captured.shape)}"
                )
            keep(captured.cpu(), output)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor | Sequence[int],
    test_features: Tensor,
    test_labels: Tensor | Sequence[int],
    target: int | Sequence[int],
    *,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of a multinomial logistic regression on standardised features.

    It is trained on labelled images of all classes, the forgotten ones included: a high accuracy on the target
    says that the class is still there to be read, whatever the model answers.

    Args:
        train_features, test_features: [N, D] and [M, D], see :func:`features`.
        train_labels, test_labels: [N] and [M] integer class indices.
        target: the class or classes that count as forgotten.
        seed: of the solver (the default solver is deterministic and does not use it).

    Raises:
        ImportError: scikit-learn is missing (extra "evaluate").
        ValueError: shapes that do not fit, NaN or infinite features, a target without training images, or fewer
            than two classes to learn.
    """
    classifier = require("sklearn.linear_model", "evaluate").LogisticRegression(
        max_iter=1000, random_state=check_seed(seed)
    )
    return fitted(classifier, train_features, train_labels, test_features, test_labels, target)


def fitted(
    classifier: Any,
    train_features: Tensor,
    train_labels: Tensor | Sequence[int],
    test_features: Tensor,
    test_labels: Tensor | Sequence[int],
    target: int | Sequence[int],
) -> ProbeResult:
    """Accuracy of a classifier of scikit-learn, trained on standardised features; see :func:`linear_probe`."""
    for name, value in (("train_features", train_features), ("test_features", test_features)):
        if not isinstance(value, Tensor) or value.dim() != 2:
            raise ValueError(f"{name} must be a tensor [N, D], got {getattr(value, 'shape', type(value).__name__)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"test_features must have the {train_features.shape[1]} columns of train_features, "
            f"got {test_features.shape[1]}"
        )
    train_truth = check_labels("train_labels", train_labels, len(train_features))
    test_truth = check_labels("test_labels", test_labels, len(test_features))
    targets = check_targets(target)
    known = set(train_truth.tolist())
    if len(known) < 2:
        raise ValueError(f"train_labels must hold at least two classes, got {len(known)}")
    if missing := [t for t in targets if t not in known]:
        raise ValueError(f"train_labels must hold images of the target, got none of class {missing[0]}")
    if bool((train_features == train_features[:1]).all()):  # not every classifier takes features that say nothing
        classifier = require("sklearn.dummy", "evaluate").DummyClassifier()
    scaler = require("sklearn.preprocessing", "evaluate").StandardScaler()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "self.within_class_std_dev_")  # a masked unit is constant
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")  # the attacker has no more
        classifier.fit(scaler.fit_transform(train_features.double().cpu().numpy()), train_truth.numpy())
    answers = test_truth
    if test_truth.numel():
        answers = torch.from_numpy(classifier.predict(scaler.transform(test_features.double().cpu().numpy())))
    return ProbeResult.of((answers == test_truth).double(), test_truth, targets)


def probe_on_halves(values: Tensor, labels: Tensor, target: int | Sequence[int], seed: int = 0) -> ProbeResult:
    """:func:`linear_probe` where only one set of labelled features [N, D] is at hand.

    Half of each class (the larger half if odd), drawn with the seed, trains; the other half judges.
    """
    truth = check_labels("labels", labels, len(values))
    generator = torch.Generator().manual_seed(check_seed(seed))
    train = torch.zeros(len(truth), dtype=torch.bool)
    for label in truth.unique():
        where = torch.nonzero(truth == label)[:, 0]
        order = torch.randperm(len(where), generator=generator)
        train[where[order[: (len(where) + 1) // 2]]] = True
    return linear_probe(values[train], truth[train], values[~train], truth[~train], target, seed=seed)


def _read_last_linear(model: nn.Module, batch: Tensor) -> tuple[Tensor | None, object]:
    with LastLinear() as mode:
        output = run(model, batch)
    return mode.input, output


def _read_named(model: nn.Module, batch: Tensor, module: nn.Module) -> tuple[Tensor | None, object]:
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [_pooled(value, module) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:1]

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        output = run(model, batch)
    finally:
        handle.remove()
    return (seen[0] if seen else None), output


def _pooled(value: Tensor, module: nn.Module | None) -> Tensor:
    """[N, ...] -> a float32 copy [N, D]: the mean over tokens before a linear, over space before a convolution."""
    if value.dim() > 2 and (module is None or isinstance(module, nn.Linear)):
        value = value.flatten(1, -2).float().mean(dim=1)
    elif value.dim() > 2 and isinstance(module, _ConvNd):
        value = value.flatten(2).float().mean(dim=2)
    return value.detach().reshape(value.shape[0], -1).to(torch.float32, copy=True)
