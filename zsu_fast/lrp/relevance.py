"""`relevance`: a forward pass, and a backward pass per target, give the relevance of the input and of every neuron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast, overload

from torch import Tensor

from .blocks import Memory
from .composites import Composite
from .conservation import Ledger
from .eager import refuse_transforms, uncompiled
from .language import text_relevance
from .passes import Request, check_inputs, propagate
from .plan import planned
from .result import Relevance
from .starts import Init, Target, check_target, labelled
from .texts import At

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """Of `relevance`."""

    composite: str | Composite
    init: Init
    layers: str | Sequence[str] | None
    at_input: bool
    strict: bool
    conservation: bool
    plan: bool
    memory: Memory


@overload
def relevance(
    model: Callable[[Tensor], Any], inputs: Tensor, target: Target = None, **options: Unpack[Options]
) -> Relevance: ...


@overload
def relevance(
    model: Callable[[Tensor], Any], inputs: Tensor, target: Sequence[Target], **options: Unpack[Options]
) -> tuple[Relevance, ...]: ...


@overload
def relevance(
    model: Callable[..., Any], inputs: Mapping[str, Any], target: Target | At = None, **options: Unpack[Options]
) -> Relevance: ...


@overload
def relevance(
    model: Callable[..., Any], inputs: Mapping[str, Any], target: list[Target | At], **options: Unpack[Options]
) -> tuple[Relevance, ...]: ...


@uncompiled
def relevance(
    model: Callable[..., Any],
    inputs: Tensor | Mapping[str, Any],
    target: Target | At | Sequence[Target] | list[Target | At] = None,
    *,
    composite: str | Composite = "epsilon",
    init: Init = "logit",
    layers: str | Sequence[str] | None = None,
    at_input: bool = True,
    strict: bool = True,
    conservation: bool = False,
    plan: bool = False,
    memory: Memory = "normal",
) -> Relevance | tuple[Relevance, ...]:
    """Layer-wise relevance propagation (Bach et al. 2015; transformers: Achtibat et al. 2024) of one logit per sample.

    Works on any model made of torch functions: no hooks, no changed modules, nothing to prepare. The model is left
    exactly as it was. It must be in eval mode if it has dropout or BatchNorm. Where it is compiled or checkpointed
    (`use_reentrant=False`), it runs as if it were not, unless `memory` is "low". Of a model in parts (FSDP2, tensor
    parallel) every process must make the call.

    The host never waits for the device, but for one look at the values of a target given as a tensor, and at the logits
    unless `init` is "logit", when all passes are under way. A CUDA graph leaves that out: what it would have refused
    becomes NaN.

    Typical errors, relative to float64: 1e-6 in float32; in float16 0.5 % (alpha-beta 1 %), in bfloat16 3 % (alpha-beta
    10 %). Epsilon and LRP-0 are as exact as the plain gradient times the input, which loses more the deeper the net.

    Args:
        model: A module or function from inputs to logits [N, classes], or to an object with `.logits`.
        inputs: [N, ...], floating point, on the model's device; or what the model takes by name, texts: see below.
        target: The class whose logit is explained: one for all, or integers [N]; None: each sample's largest logit. A
            list or tuple of such targets shares the forward pass: each costs one backward pass.
        composite: The rules: a `Composite`, or the name of one (`zsu_fast.lrp.COMPOSITES`): "epsilon", "epsilon_plus",
            "epsilon_plus_flat", "epsilon_alpha2_beta1", "attnlrp", "cp_lrp" ...
        init: Relevance to start from: the "logit" itself, "one", or its softmax "probability".
        layers: Names of the layers whose units are collected, `fnmatch` patterns included; None: all.
        at_input: Whether the relevance of the input is wanted too. Without, the passes end at the lowest of `layers`,
            which saves what lies below it, and `Relevance.input` is empty, [N, 0].
        strict: Whether a function that no rule covers is an error. If not, its ordinary gradient is taken, with one
            warning.
        conservation: Whether to keep the books of where relevance goes, layer by layer, for `Relevance.check`. It costs
            memory (every intermediate value is kept) and time.
        plan: Whether to keep a plan of this call for the next ones, as long as the model lives; see
            `zsu_fast.lrp.compile`, whose defaults hold. The model must be a module.
        memory: "low" keeps of blocks only what they are called with, and runs them a second time in each backward pass:
            the same bits from a fraction of the memory, in about one and a half times the time. Blocks are modules of
            which an `nn.Sequential` or `nn.ModuleList` has several of one class, made of other modules, and whatever
            the model wraps in `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`. Forward hooks in them run
            again, too. Not with `conservation` or `plan`, nor for a model in parts.

    Returns:
        A `Relevance`; for a list or tuple of targets, one for each of them.

    Raises:
        UncoveredFunctionError: Some function on the way has no rule; the message names it and the module.
        ValueError, TypeError: An argument is not as described, or the model is in training mode.
        RuntimeError: It is called inside of a transform of `torch.func`.

    Texts: `inputs` are the arguments of the model by name, as the tokenizers of transformers give them: "input_ids",
    integers [N, T], or "inputs_embeds" [N, T, D], with "attention_mask" [N, T] if texts are filled up on either side,
    and whatever else the model takes ("pixel_values" ...). The model runs as it is, without its cache. Where its logits
    are [N, T, vocabulary], a target is a pair (position, token), or a list of pairs. Positions, an int or integers [N],
    are places in `input_ids`; negative ones count from the last token that is no padding. The token is a number,
    numbers [N], or None for the largest logit there; None alone is (-1, None). Where the logits are [N, classes],
    targets are classes, as above. `Relevance.input` is that of each token, [N, T]; `Relevance.others` that of the other
    arguments in floating point (without masks), by name.

    Inside of a function under `torch.compile` it breaks the graph and runs as written (with fullgraph=True the compiler
    refuses it).
    """
    refuse_transforms()
    request = Request.of(composite, init, layers, at_input, strict, memory)
    if conservation and request.rules.follows_patterns():
        raise ValueError("conservation: no books are kept of PatternNet and PatternAttribution")
    if conservation and not at_input:
        raise ValueError("conservation: the books are of passes down to the input, which at_input=False leaves out")
    if plan and conservation:
        raise ValueError("conservation: no books are kept by a plan; leave plan=False")
    if memory == "low" and (conservation or plan):
        raise ValueError(
            f'memory: {"the books keep every value" if conservation else "a plan runs nothing twice"}, so "low" cannot '
            f"be had with {'conservation' if conservation else 'plan'}=True"
        )
    if isinstance(inputs, Mapping):
        if plan:
            raise ValueError("plan: there are plans for one tensor, not for inputs by name; leave plan=False")
        told = text_relevance(model, inputs, target, request, Ledger() if conservation else None)
        return tuple(told) if isinstance(target, list) else told[0]
    check_inputs(inputs)
    target = cast(Target | Sequence[Target], target)
    targets = labelled(target)
    for label, value in targets:
        check_target(label, value, len(inputs))
    if plan:
        name = composite if isinstance(composite, str) else id(composite)  # which the request holds
        return planned(model, inputs, target, request, (name, init, request.layers, at_input, strict))
    found, unseen = propagate(model, inputs, targets, request, Ledger() if conservation else None)
    for each in unseen:
        each.check()
    return tuple(found) if isinstance(target, list | tuple) else found[0]
