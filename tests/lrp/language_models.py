"""Language models of transformers with a few random weights, by family: float64, in eval mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests import peers

VOCABULARY = 23
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}

CAUSAL: dict[str, dict[str, Any]] = {
    "Llama": _GROUPED,
    "Qwen2": _GROUPED,
    "Qwen3": _GROUPED | {"head_dim": 4},
    "Mistral": _GROUPED | {"sliding_window": 4},
    "Phi": _SIZES | {"partial_rotary_factor": 0.5},
    "Gemma3": _GROUPED | {"head_dim": 4, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "GPT2": _GPT2 | {"bos_token_id": 1, "eos_token_id": 2},
    "Mixtral": _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Olmoe": _SIZES | {"num_experts": 4, "num_experts_per_tok": 2},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "Bert": _SIZES,
    "ModernBert": _SIZES
    | {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
}


def language_model(family: str, head: str = "", **changes: Any) -> nn.Module:
    """`head`: what follows the family in the name of the class; by default the one that predicts tokens."""
    transformers = peers.import_transformers()
    known = CAUSAL | ENCODERS
    config_name = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, config_name)(**(known[family] | changes))
    default = "ForMaskedLM" if family in ENCODERS else "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    model = randomized(getattr(transformers, f"{family}{head or default}")(config))
    if family in ("Mixtral", "Olmoe"):
        model.set_experts_implementation("eager")  # torch._grouped_mm has no float64
    return model


def vision_language_model() -> nn.Module:
    """Images [N, 3, 8, 8] as four tokens each, number 5, beside a text."""
    transformers = peers.import_transformers()
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8,
        "patch_size": 4, "projection_dim": 16,
    }  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**_GROUPED),
        image_token_id=5,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    return randomized(transformers.LlavaForConditionalGeneration(config))


def letters() -> Any:
    """A tokenizer for `vocab_size=32`: each letter is a token. It fills up on the left."""
    transformers = peers.import_transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = ["<pad>", "<s>", "</s>", "?", " ", ".", *map(chr, range(ord("a"), ord("z") + 1))]
    own = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "?"))
    own.pre_tokenizer, own.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", padding_side="left", model_input_names=["input_ids", "attention_mask"]
    )


def randomized(model: nn.Module) -> nn.Module:
    """Weights that are not all but zero, and norms and biases that are not 1 and 0."""
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.normal_(0.1, 0.4) if parameter.dim() < 2 else parameter.normal_(0, 0.3)
    return model.eval().double()
