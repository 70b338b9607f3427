"""The models of the zoo: real definitions of timm, torchvision and transformers, with random weights.

One or a few of each family, the smallest there is, at the smallest input it takes. Nothing is downloaded.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests import peers

CLASSES = 7


@dataclass(frozen=True)
class ZooModel:
    """How to build a model.

    `absorbs`: why some relevance ends inside of it though no bias and no token is there. `mixes`: how its samples see
    each other. `unplanned`: why no plan stands for it.
    """

    library: str
    name: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    absorbs: str = ""
    mixes: str = ""
    unplanned: str = ""

    @property
    def id(self) -> str:
        return f"{self.library}:{self.name}"

    def build(self) -> nn.Module:
        """In eval mode, from images [N, 3, size, size] to logits [N, 7]; float32."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated names of models
            return _BUILDERS[self.library](self).eval()

    def images(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(count, 3, self.size, self.size, generator=torch.Generator().manual_seed(1)).to(dtype)


def _build_timm(model: ZooModel) -> nn.Module:
    return peers.import_timm().create_model(model.name, num_classes=CLASSES, **model.options)


def _build_torchvision(model: ZooModel) -> nn.Module:
    models = peers.import_torchvision().models
    options = dict(model.options)
    if model.name in ("googlenet", "inception_v3"):  # theirs takes long
        options["init_weights"] = False
    return models.get_model(model.name, num_classes=CLASSES, **options)


def _build_transformers(model: ZooModel) -> nn.Module:
    transformers = peers.import_transformers()
    config = getattr(transformers, f"{model.name}Config")(**model.options)
    config.num_labels = CLASSES
    return getattr(transformers, f"{model.name}ForImageClassification")(config)


_BUILDERS: dict[str, Callable[[ZooModel], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "transformers": _build_transformers,
}

# By side of the input; the second are told it when they are built.
_TIMM: dict[int, str] = {
    64: """
        caformer_s18 convformer_s18 convmixer_1024_20_ks9_p14 convmixer_768_32 convnext_atto convnext_zepto_rms
        convnextv2_atto cpubone_nano crossvit_9_dagger_240 crossvit_tiny_240 cs3darknet_s csatv2 cspdarknet53
        cspnext_tiny cspresnet50 cspresnext50 davit_tiny densenet121 dla46_c dla60_res2net dm_nfnet_f0 dpn48b
        eca_nfnet_l0 ecaresnet26t edgenext_xx_small efficientnet_b0 efficientnet_es efficientnet_lite0
        efficientnetv2_rw_t efficientvim_m1 efficientvit_b0 ese_vovnet19b_slim fasternet_t0 fastvit_t8
        fbnetc_100 focalnet_tiny_srf ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnetv2_b0
        hieradet_small hrnet_w18_small iformer_t inception_next_atto lcnet_035 lcnetv2_small legacy_senet154
        legacy_seresnet18 legacy_xception lowformer_b0 mambaout_femto mixnet_s mnasnet_small mobilenetv1_100
        mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium
        mobilenetv5_base nasnetalarge nextvit_small nf_regnet_b0 nf_resnet26 pnasnet5large poolformer_s12
        poolformerv2_s12 pvt_v2_b0 rdnet_tiny regnetv_040 regnetx_002 regnety_002 repghostnet_050
        res2net50_14w_8s res2next50 resnest14d resnet18 resnetaa34d resnetblur50 resnetrs50 resnetv2_18
        resnetv2_50x1_bit resnext50_32x4d rexnet_100 rexnetr_100 selecsls42b semnasnet_075 seresnet18 shvit_s1
        skresnet18 spnasnet_100 starnet_s050 tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tresnet_m vgg11
        vgg11_bn vovnet39a wide_resnet50_2 xception41 xception41p
    """,
    96: """
        inception_resnet_v2 inception_v3 inception_v4
    """,
}
_TIMM_SIZED: dict[int, str] = {
    64: """
        cait_xxs24_224 coat_lite_tiny coat_tiny coatnet_0_rw_224 coatnet_pico_rw_224 coatnext_nano_rw_224
        convit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 eca_botnext26ts_256
        efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcresnext26ts gcvit_xxtiny gernet_s
        gmixer_12_224 gmlp_ti16_224 hiera_tiny_224 lambda_resnet26t levit_128s levit_conv_128s
        maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 mixer_s16_224
        mobileone_s1 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny pit_ti_224 pit_ti_distilled_224
        regnetz_b16 repvgg_a0 repvit_m1 resmlp_12_224 sequencer2d_s swiftformer_xs swin_s3_tiny_224
        swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256
        tnt_s_patch16_224 twins_pcpvt_small twins_svt_small visformer_tiny vit_relpos_small_patch16_rpn_224
        vit_small_patch16_rope_224 vit_srelpos_small_patch16_224 vit_tiny_patch16_224
        vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224
    """,
    224: """
        efficientformer_l1
    """,
    256: """
        bat_resnext26ts eca_halonext26ts halonet_h1
    """,
}  # Only large ones exist: three blocks of them.
_TIMM_LARGE = {
    64: "beit_base_patch16_224 beitv2_base_patch16_224 eva02_base_patch14_224 gemma4_vit_167m "
    "naflexvit_base_patch16_gap qwen3_vit_88m samvit_base_patch16_224 vit_base_patch16_siglip_224 "
    "vit_base_patch16_siglip_gap_224",
    224: "deepseek_vit_412m",
}
_THREE_BLOCKS = {"depth": 3, "embed_dim": 96, "num_heads": 3}

_TRAITS: dict[str, dict[str, str]] = {
    "coat_lite_tiny": {"absorbs": "without its class tokens the logits are 0"},
    "coat_tiny": {"absorbs": "without its class tokens the logits are 0"},
    "csatv2": {
        "absorbs": "constants of its colour and frequency transforms",
        "mixes": "its spatial attention is [N, N], over the samples",
    },
    "edgenext_xx_small": {"absorbs": "positions (sines) that are no parameters"},
    "gemma4_vit_167m": {
        "absorbs": "pixels are shifted by a constant",
        "unplanned": "Python reads values of its tensors",
    },
    "iformer_t": {"absorbs": "a sigmoid on the path of the values"},
    "xcit_nano_12_p16_224": {"absorbs": "positions (sines) that are no parameters"},
}

_TORCHVISION_SIZES = {
    "alexnet": 64,
    "inception_v3": 75,
    "maxvit_t": 224,
    "vit_h_14": 28,
    "vit_b_32": 64,
    "vit_l_32": 64,
}
_TORCHVISION = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
    regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
    regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34
    resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
    shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn
    vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2
    wide_resnet50_2
"""

_HIDDEN = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
_VIT = {**_HIDDEN, "intermediate_size": 96}
_WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1]}
_TRANSFORMERS: dict[str, tuple[int, dict[str, Any]]] = {
    "Beit": (32, {**_VIT, "use_relative_position_bias": True, "use_mean_pooling": True}),
    "Bit": (32, {**_STAGES, "embedding_size": 32, "hidden_sizes": [32, 64, 64, 96], "num_groups": 8}),
    "CLIP": (32, {"vision_config": _VIT}),
    "ConvNext": (32, _STAGES),
    "ConvNextV2": (32, _STAGES),
    "Cvt": (32, {"embed_dim": [16, 32, 48], "depth": [1, 2, 3], "num_heads": [1, 2, 3]}),
    "Data2VecVision": (32, {**_VIT, "use_relative_position_bias": True}),
    "DeiT": (32, _VIT),
    "Dinov2": (32, _HIDDEN),
    "Dinov2WithRegisters": (32, _HIDDEN),
    "DonutSwin": (32, _WINDOWS),
    "EfficientNet": (32, {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}),
    "FocalNet": (32, {**_STAGES, "image_size": 32, "patch_size": 2, "embed_dim": 12}),
    "HGNetV2": (32, {}),
    "Hiera": (64, {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}),
    "IJepa": (32, _VIT),
    "Levit": (
        64,
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [16, 16, 16],
        },
    ),
    "MetaClip2": (32, {"vision_config": _VIT}),
    "MobileNetV1": (32, {"depth_multiplier": 0.25}),
    "MobileNetV2": (32, {"depth_multiplier": 0.35}),
    "MobileViT": (
        64,
        {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40]},
    ),
    "MobileViTV2": (64, {"image_size": 64, "width_multiplier": 0.5}),
    "PoolFormer": (32, _STAGES),
    "Pvt": (64, {**_STAGES, "image_size": 64}),
    "PvtV2": (32, _STAGES),
    "RegNet": (32, {**_STAGES, "embedding_size": 16, "groups_width": 8}),
    "ResNet": (32, {**_STAGES, "embedding_size": 16}),
    "Segformer": (32, _STAGES),
    "Siglip": (32, {"vision_config": _VIT}),
    "SwiftFormer": (64, {"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 40]}),
    "Swin": (32, _WINDOWS),
    "Swinv2": (32, _WINDOWS),
    "TextNet": (32, {}),
    "ViT": (32, _VIT),
    "ViTMSN": (32, _VIT),
}


def _timm(sizes: Mapping[int, str], **options: Any) -> list[ZooModel]:
    return [
        ZooModel("timm", name, size, {k: size if v is ... else v for k, v in options.items()}, **_TRAITS.get(name, {}))
        for size, names in sizes.items()
        for name in names.split()
    ]


def _torchvision(name: str) -> ZooModel:
    size = _TORCHVISION_SIZES.get(name, 32)
    return ZooModel("torchvision", name, size, {"image_size": size} if name.startswith("vit") else {})


ZOO: list[ZooModel] = [
    *sorted(
        [*_timm(_TIMM), *_timm(_TIMM_SIZED, img_size=...), *_timm(_TIMM_LARGE, img_size=..., **_THREE_BLOCKS)],
        key=lambda model: model.name,
    ),
    *map(_torchvision, _TORCHVISION.split()),
    *(ZooModel("transformers", name, size, options) for name, (size, options) in _TRANSFORMERS.items()),
]

_ADDED = re.compile(r"(^|_)(bias|beta|mean|pos\w*|tokens?|embeddings?|b|shift|table)(_?\d+)*($|_)")


def is_added(name: str) -> bool:
    """Whether a parameter or buffer of this name is added to values: a bias, a position, a class token."""
    return _ADDED.search(name.rpartition(".")[2]) is not None or name.endswith("position_embedding.weight")


@torch.no_grad()
def enliven(model: nn.Module, added: float, seed: int = 0) -> nn.Module:
    """Random parameters with which everything takes part.

    Fresh models have residual branches that are scaled by zero or 1e-6, BatchNorms without statistics, class tokens of
    zeros: on them a test passes whatever the rules do. `added` is the spread of all that is added (biases, positions,
    tokens, means); with 0, and attention weights held constant, no rule that conserves loses anything.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = [(n, b) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
    for name, tensor in [*model.named_parameters(), *statistics]:
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif is_added(name):
            tensor.normal_(0, added, generator=generator) if added else tensor.zero_()
        elif tensor.numel() == max(tensor.shape, default=1):  # a factor for each channel, or for all
            if tensor.dim():
                tensor.normal_(0.8, 0.4, generator=generator)
            elif tensor == 0:
                tensor.fill_(0.5)
        else:
            tensor.normal_(0, 1 / math.sqrt(tensor[0].numel()), generator=generator)
    return model
