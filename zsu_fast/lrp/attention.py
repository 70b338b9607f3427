"""Attention: `scaled_dot_product_attention` and `nn.MultiheadAttention`.

AttnLRP (Achtibat et al. 2024) is the ordinary backward of attention with half of the relevance at each of its two
products: dQ / 4, dK / 4, dV / 2. CP-LRP (Ali et al. 2022) holds the attention weights constant: dV alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .collector import Unit
from .engine import Engine, handles
from .functions import Heads, Share
from .marks import Mark


@handles("scaled_dot_product_attention")
def _attention(
    engine: Engine,
    func: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **keywords: Any,
) -> Tensor:
    if dropout_p > 0:
        raise ValueError("model: dropout is active in an attention; call model.eval() first")
    layer = engine.marks[value].layer
    of_weights = 1.0  # the share of the attention weights in their product with the values
    if engine.depends(value) and any(engine.depends(t) for t in (query, key, attn_mask)):
        if engine.composite.attention == "cp_lrp":
            query, key = query.detach(), key.detach()
            attn_mask = None if attn_mask is None else attn_mask.detach()
        else:
            of_weights = 0.5
            value = _share(engine, value, 0.5)
    of_query = of_weights / 2 if engine.depends(query) and engine.depends(key) else of_weights
    query, key = _share(engine, query, of_query), _share(engine, key, of_query)
    attn_mask = None if attn_mask is None else _share(engine, attn_mask, of_weights)
    query, key, value, attn_mask = engine.frozen((query, key, value, attn_mask))
    output = func(query, key, value, attn_mask, dropout_p, is_causal, **keywords)
    return observe_heads(engine, output, layer)


def _share(engine: Engine, value: Tensor, share: float) -> Tensor:
    return Share.apply(value, share) if share != 1 and engine.depends(value) else value


def observe_heads(engine: Engine, output: Tensor, layer: str | None) -> Tensor:
    """Note the heads of `output` [N, heads, tokens, head_dim]; `layer` is the value projection, if it is known."""
    if output.dim() < 4 or not output.requires_grad:
        return output
    parent = engine.names.running_module() if layer is None else layer.rpartition(".")[0]
    heads = output.shape[-3]
    unit = Unit(f"{parent}.heads" if parent else "heads", heads, 0, heads)
    if layer in engine.collector.spread:  # other processes have the other heads
        values = engine.collector.seen[layer]
        start, total = (heads * rows / values.count for rows in (values.start, values.total))
        if start % 1 or total % 1:
            raise ValueError(f"model: {layer!r} is split within attention heads; split it into equal shards of heads")
        unit = replace(unit, start=int(start), total=int(total))
        engine.collector.spread[unit.name] = engine.collector.spread[layer]
    engine.collector.register(unit)
    if not engine.collector.wants(unit):
        return output
    return Heads.apply(output, unit, engine.collector)


@handles("multi_head_attention_forward")
def _multi_head_attention(
    engine: Engine,
    func: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The function behind `nn.MultiheadAttention`, made of functions that have rules. Sequence first: [L, N, E]."""
    if training and dropout_p > 0:
        raise ValueError("model: dropout is active in an attention; call model.eval() first")
    if static_k is not None or static_v is not None:
        raise ValueError("model: multi_head_attention_forward with static keys or values is not supported")
    call = engine.call
    batched = query.dim() == 3
    same_key, same_value = key is query, value is key
    if batched:
        query = call(torch.transpose, query, 0, 1)
        key = query if same_key else call(torch.transpose, key, 0, 1)
        value = key if same_value else call(torch.transpose, value, 0, 1)
    else:
        query = call(torch.unsqueeze, query, 0)
        key = query if same_key else call(torch.unsqueeze, key, 0)
        value = key if same_value else call(torch.unsqueeze, value, 0)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    samples, targets, width = query.shape

    # Projections. Packed weights are used in one piece where the same tensor meets all of them.
    weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.detach().chunk(3)
    if use_separate_proj_weight:
        q, k, v = (call(F.linear, x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    elif same_key and same_value:
        q, k, v = call(torch.chunk, call(F.linear, query, in_proj_weight, in_proj_bias), 3, -1)
    else:
        assert in_proj_weight is not None
        rows = in_proj_weight.detach().chunk(3)
        q, k, v = (call(F.linear, x, w, b) for x, w, b in zip((query, key, value), rows, biases, strict=True))
    layer = engine.marks[v].layer

    if bias_k is not None and bias_v is not None:
        k = call(torch.cat, [k, bias_k.detach().expand(samples, 1, -1)], 1)
        v = call(torch.cat, [v, bias_v.detach().expand(samples, 1, -1)], 1)
    if add_zero_attn:
        k = call(torch.cat, [k, k.new_zeros(samples, 1, k.shape[-1])], 1)
        v = call(torch.cat, [v, v.new_zeros(samples, 1, v.shape[-1])], 1)
    appended = (bias_k is not None) + bool(add_zero_attn)

    def split(x: Tensor) -> Tensor:
        return call(torch.transpose, call(torch.Tensor.unflatten, x, -1, (num_heads, -1)), 1, 2)

    q, k, v = split(q), split(k), split(v)
    mask = _merged_mask(attn_mask, key_padding_mask, samples, num_heads, q, appended)
    if mask is None and is_causal and attn_mask is None:
        mask = torch.ones(targets, k.shape[2], dtype=torch.bool, device=q.device).tril().logical_not()
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -math.inf)

    weights_out = None
    if need_weights:
        scores = call(torch.matmul, call(torch.mul, q, q.shape[-1] ** -0.5), call(torch.transpose, k, -1, -2))
        scores = scores if mask is None else call(torch.add, scores, mask)
        attention = call(torch.softmax, scores, -1)
        heads = observe_heads(engine, call(torch.matmul, attention, v), layer)
        weights_out = call(torch.mean, attention, 1) if average_attn_weights else attention
        weights_out = weights_out if batched else call(torch.squeeze, weights_out, 0)
    else:
        engine.marks[v] = Mark(layer=layer)
        heads = call(F.scaled_dot_product_attention, q, k, v, mask)
    joined = call(torch.Tensor.reshape, call(torch.transpose, heads, 1, 2), (samples, targets, width))
    output = call(F.linear, joined, out_proj_weight, out_proj_bias)
    return (call(torch.transpose, output, 0, 1) if batched else call(torch.squeeze, output, 0)), weights_out


def _merged_mask(
    attention: Tensor | None, padding: Tensor | None, samples: int, heads: int, like: Tensor, appended: int
) -> Tensor | None:
    """One additive mask of `attention` [L, S] or [N * heads, L, S] and `padding` [N, S], `appended` keys visible."""

    def additive(mask: Tensor) -> Tensor:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)
        return F.pad(mask.to(like.dtype), (0, appended))

    merged = None
    if attention is not None:
        merged = additive(attention)
        merged = merged.view(samples, heads, *merged.shape[1:]) if merged.dim() == 3 else merged
    if padding is not None:
        hidden = additive(padding)[:, None, None, :]
        merged = hidden if merged is None else merged + hidden
    return merged
