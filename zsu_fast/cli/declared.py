"""What the library declares and help shows, written out: help must not wait for torch. A test compares the two."""

from __future__ import annotations

LEDGER = "ledger.json"
INSTANCE_METHODS = ("margin", "l2ul")
GENERATOR_METHODS = ("substitute", "cascade", "hunt")
TEXT_METHODS = ("text-poison", "text-ascent")
BASELINES = (
    "retrain", "finetune", "l1-sparse", "random-label", "salun", "neggrad", "neggrad+", "scrub", "boundary-shrink",
    "boundary-expand", "unsir", "ssd", "lfssd", "jit", "damp", "kodge", "noise",
)  # fmt: skip
RESUMABLE = (
    "deep", "poison", *INSTANCE_METHODS, *GENERATOR_METHODS, *TEXT_METHODS,
    *(name for name in BASELINES if name not in ("ssd", "lfssd", "damp", "kodge", "noise")),
)  # fmt: skip
COMPOSITES = (
    "epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat", "excitation_backprop", "gamma_epsilon", "zero_epsilon_gamma_box", "attnlrp",
    "attnlrp_gamma", "cp_lrp",
)  # fmt: skip
LOGGERS = ("tensorboard", "mlflow", "wandb")
UNNAMED_CONCEPTS = ("channels", "directions")
WAYS_TO_WORDS = ("subject", "attnlrp", "ig", "random")
GOALS = {
    "misclassify": "get another answer",
    "relabel": "get the new label as answer",
    "unseen": "have no less loss than unseen images",
}
RELEARN_BY = (("adam", 1e-4), ("adam", 1e-3), ("sgd", 1e-2), ("sgd", 1e-1))

OPTIONS: dict[str, tuple[str, str | None]] = {
    "budget": (
        "Size of the edit: neurons to perturb, or a fraction in (0, 1]. Given, nothing is searched.",
        "as the method says",
    ),
    "until": ("Accuracy on the class to get down to on held-out probes.", "lra-npp 0.02, all others 0.05"),
    "utility_floor": ("Accuracy on the retain images that must be kept.", "two points less than before"),
    "seed": ("Of the split of the probes and of whatever is drawn.", "0"),
    "batch_size": (
        "Images per forward pass; auto: 16 on a CPU, 64 elsewhere, or fewer where memory has no room for them.",
        "auto",
    ),
    "mode": (
        "zero (exact masking), invert (times -1), scale (times `strength`), gaussian or laplace (noise on weights).",
        "as the method says",
    ),
    "strength": ("Of scale, gaussian and laplace.", None),
    "k": ("Neurons that each probe may name as most relevant: a count or a share of the layer.", "0.25"),
    "score": (
        "channels: frequency, mean or contrastive (against the retain images).",
        "contrastive with retain images",
    ),
    "scope": ("channels: layer: the same share of each; global: compared across layers.", "layer"),
    "layers": (
        "channels: Only these layers.",
        "late hidden layers and heads, then all late layers, then every hidden layer",
    ),
    "composite": ("channels: Rules of the relevance pass.", "epsilon"),
    "memory": (
        "channels: Of the relevance pass; low: blocks of the model run a second time, the same bits from less memory.",
        "normal",
    ),
    "path": (
        "lra-npp: target: the weights to the class; all: to every class; rows, neuron: the neurons too.",
        "target",
    ),
    "preset": ("lra-npp: The authors' settings for one of their experiments.", "none"),
    "authors_compat": (
        "lra-npp: The authors' code's quirks: relevance of the arg-max, ties by insertion, eps = 0.1, biases kept, no "
        "search.",
        "False",
    ),
}
"""Of lra-npp and channels: name -> what it means (after the method's name, where the other has it not), default."""
