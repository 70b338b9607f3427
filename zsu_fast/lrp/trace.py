"""A call of the passes written down as a graph of torch's operators, without the engine that found it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from zsu_fast.model.shards import sharded_part
from zsu_fast.ops.prepared import derived, keeping, open_kept

from .passes import Request, propagate
from .result import Relevance
from .starts import Unseen

_one_at_a_time = threading.RLock()  # torch notes for all threads that it traces


class UnplannableError(ValueError):
    """No one graph stands for the model."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"model: it cannot be planned, because {reason}")


@dataclass(frozen=True, eq=False)
class Trace:
    """The passes for inputs of one shape, as graphs that read the live weights of the model.

    Attributes:
        graph: (inputs, *targets) -> outputs, with the weights as attributes.
        weights: Parameters and buffers that it reads.
        prepare: (*weights) -> prepared: what depends on the weights alone (W+, folded BatchNorm), and they themselves.
        run: (inputs, *targets, *prepared) -> outputs; the outputs of `graph`, split at the prepared tensors.
        names: Layers whose units the outputs tell of.
        classes: How many logits there are.
    """

    graph: GraphModule
    weights: tuple[Tensor, ...]
    prepare: Callable[..., tuple[Tensor, ...]]
    run: GraphModule
    request: Request
    names: tuple[str, ...]
    classes: int
    _key: object = field(default_factory=object)

    def prepared(self) -> tuple[Tensor, ...]:
        """What `run` takes beside inputs and targets; made once for all calls while `constant_weights` holds."""
        if not open_kept():
            return self.prepare(*self.weights)
        return derived(self._key, self.weights, self.prepare)

    def found(
        self, outputs: Sequence[Tensor], labels: Sequence[str], targets: Sequence[Tensor | None]
    ) -> list[Relevance]:
        """The outputs of `run` as those of `propagate`. ValueError where the host does not like what it sees."""
        logits, *rest = outputs
        each = len(rest) // len(labels)
        result = []
        for i, (label, target) in enumerate(zip(labels, targets, strict=True)):
            at_input, *neurons = rest[i * each : (i + 1) * each]
            divisor = None if self.request.init == "logit" else neurons.pop()
            Unseen(label, self.classes, target, divisor, self.request.init).check()
            result.append(Relevance(at_input, dict(zip(self.names, neurons, strict=True)), logits))
        return result


def trace(model: nn.Module, inputs: Tensor, targets: Sequence[Tensor | None], request: Request) -> Trace:
    """The passes of a model, checked on two inputs to give the bits that they give without a graph.

    UnplannableError for a model that no one graph stands for.
    """
    if (part := sharded_part(model)) is not None:
        raise UnplannableError(f"{part}; use relevance without a plan")
    given = [target for target in targets if target is not None]
    names: list[str] = []

    def passes(images: Tensor, *classes: Tensor) -> tuple[Tensor, ...]:
        waiting = iter(classes)
        named = [("target", None if target is None else next(waiting)) for target in targets]
        found, unseen = propagate(model, images, named, request)
        names[:] = found[0].neurons
        outputs = [found[0].logits]
        for each, doubt in zip(found, unseen, strict=True):
            outputs += [each.input, *each.neurons.values(), *([] if doubt.divisor is None else [doubt.divisor])]
        return tuple(outputs)

    inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
    # Nothing that was derived from weights before may enter the graph as a constant.
    with _one_at_a_time, keeping(), torch.inference_mode(False), torch.no_grad():
        with _Watch():
            samples = [(inputs, passes(inputs, *given))]  # errors and warnings are those of `relevance`
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                graph = make_fx(passes)(inputs, *given)
            except Exception as error:
                text = str(error).partition("\n")[0]
                raise UnplannableError(f"torch cannot trace it ({text})") from error
            other = torch.empty_like(inputs).copy_(inputs.flip(tuple(range(inputs.dim())))).mul_(0.5)
            if other.stride() == inputs.stride():
                samples.append((other, passes(other, *given)))
        _simplify(graph)
        weights, prepare, run = _split(graph, {id(t) for t in (*model.parameters(), *model.buffers())})
        classes = samples[0][1][0].shape[1]
        result = Trace(graph, weights, prepare.forward, run, request, tuple(names), classes)
        with torch.autocast(inputs.device.type, enabled=False):
            for images, expected in samples:
                _compare(expected, run(images, *given, *result.prepared()))
    return result


_aten = torch.ops.aten
_SAME_MEMORY = frozenset(
    (
        _aten.detach.default, _aten.alias.default, _aten.view.default, _aten._unsafe_view.default, _aten.expand.default,
        _aten.t.default, _aten.transpose.int, _aten.permute.default, _aten.unsqueeze.default, _aten.squeeze.dim,
    )
)  # fmt: skip
"""Views that begin where their source begins."""


def _simplify(graph: GraphModule) -> None:
    """Drop what computes nothing: views that come back to what was there, and results that nobody uses."""
    attributes: dict[int, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            value = node.meta["val"] = getattr(graph, str(node.target))
            node.replace_all_uses_with(attributes.setdefault(id(value), node))
        source = same = node
        while source.target in _SAME_MEMORY:
            source = source.args[0]
            if _layout(source) == _layout(node):
                same = source
        node.replace_all_uses_with(same)
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        node.meta.clear()  # what torch notes beside each operator is larger than the graph
    graph.recompile()


def _layout(node: Node) -> tuple[object, ...]:
    return node.meta["val"].shape, node.meta["val"].stride()


class _Watch(TorchDispatchMode):
    """UnplannableError: an operator whose result depends on more than its operands, or goes where no graph sees it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tags = func.tags
        if torch.Tag.nondeterministic_seeded in tags and _argument(func, args, kwargs or {}, "dropout_p") != 0:
            raise UnplannableError(f"it draws random numbers ({func})")
        if torch.Tag.data_dependent_output in tags:
            raise UnplannableError(f"Python reads values of its tensors ({func})")
        if torch.Tag.dynamic_output_shape in tags and (
            func is not _aten.index.Tensor
            or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        ):
            raise UnplannableError(f"shapes depend on values ({func})")
        return func(*args, **(kwargs or {}))


def _argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """What `func` was given as `name`; None if it takes no such argument."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[i] if i < len(args) else kwargs.get(name, argument.default_value)
    return None


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _split(graph: GraphModule, weights: set[int]) -> tuple[tuple[Tensor, ...], GraphModule, GraphModule]:
    """(weights that are used, prepare, run), as `Trace` has them; `weights` by identity."""
    used: dict[Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and id(value := getattr(graph, str(node.target))) in weights:
            used[node] = value
    alone = dict.fromkeys(used)  # nodes that depend on weights alone
    for node in graph.graph.nodes:
        if node.op == "call_function" and any(source in alone for source in node.all_input_nodes):
            if _mutates(node):  # what is written to belongs to one call
                alone = dict.fromkeys(used)
                break
            if all(source in alone for source in node.all_input_nodes):
                alone[node] = None
    border = [node for node in alone if any(user not in alone for user in node.users)]

    prepare, run = Graph(), Graph()
    tensors = {id(tensor): tensor for tensor in used.values()}
    places = {key: prepare.placeholder(f"weight_{i}") for i, key in enumerate(tensors)}
    inside = {node: places[id(tensor)] for node, tensor in used.items()}
    for node in alone:
        if node not in used:
            inside[node] = prepare.node_copy(node, inside.__getitem__)
    prepare.output(tuple(inside[node] for node in border))

    outside: dict[Node, Node] = {}
    for node in graph.graph.find_nodes(op="placeholder"):
        outside[node] = run.node_copy(node)
    for i, node in enumerate(border):
        outside[node] = run.placeholder(f"prepared_{i}")
    for node in graph.graph.nodes:
        if node.op != "placeholder" and node not in alone:
            outside[node] = run.node_copy(node, outside.__getitem__)
    return tuple(tensors.values()), GraphModule(graph, prepare), GraphModule(graph, run)


def _compare(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """UnplannableError if a graph gives other bits than the passes (on a GPU, whose sums have no order: values)."""
    for one, other in zip(expected, outputs, strict=True):
        exact = not one.is_cuda
        scale = 0.0 if exact or not one.numel() else float(one.abs().amax())
        if not torch.allclose(one, other, 0.0 if exact else 1e-2, 1e-3 * scale, equal_nan=True):
            raise UnplannableError(
                "a graph of it gives other values than the model itself: it draws random numbers, or depends on values "
                "in ways that no graph sees"
            )
