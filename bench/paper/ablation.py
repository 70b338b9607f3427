"""What the choices of LRA-NPP are worth, on nets at hand: rules, k and H, number of probes, noise on the probes.

    python -m bench.paper.ablation --data ../shared/data --json bench/results/paper_ablation.json
    python -m bench.paper.ablation --table bench/results/paper_ablation.json

Everything is judged on test images that had no other part; accuracies are means over the classes.

- k and H: each point of the grid is one GEMM on features that are computed once (arXiv 2410.23693's edit: the H inputs
  of the classifier that are most often among the k most relevant of a probe; their weights to the class, or to all
  classes, are zeroed). Shares are of the classifier's inputs.
- rules: at the classifier's input all rules rank alike (the relevance of an input there is its contribution), so the
  rules are told apart where they differ: units of late hidden layers, masked exactly (method "channels"), with a fixed
  budget of them; beside it how much of the units the rule shares with epsilon's.
- probes and noise: the default method, as a user calls it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine, oracles
from bench.report import insert_table, markdown
from zsu_fast.evaluate import evaluate
from zsu_fast.evaluate.probe import features_and_logits
from zsu_fast.lrp import estimate_patterns, pattern_attribution, pattern_net
from zsu_fast.unlearn.picks import rank_edges

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmark.md"
BEGIN, END = "<!-- ablation: begin -->", "<!-- ablation: end -->"
NETS = {"lenet5_mnist": "f7", "resnet20_cifar10": "linear"}  # and the name of the classifier
RULES = ("epsilon", "gamma_epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "excitation_backprop")
PATTERNS = {"pattern_net": pattern_net, "pattern_attribution": pattern_attribution}
K, H = (0.05, 0.1, 0.25, 0.5, 1.0), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
PROBES, NOISE, DRAWS = (3, 5, 9, 18, 36, 72), (0.05, 0.1, 0.2, 0.5, 1.0), 3
FEW, MASKED, PATTERN_IMAGES = 36, 0.1, 500
RULE_CLASSES = (0, 3, 8)


class Net:
    """A net, its probes (the first part of the test set) and the images that judge, run once."""

    def __init__(self, name: str, known: Any, images: int) -> None:
        self.model: nn.Module
        self.model, preprocess = known.load(name)
        x, y = known.images("cifar10_test") if "cifar" in name else known.images("mnist", "test")
        self.probes, self.probe_labels = preprocess(x[:images]), torch.as_tensor(y[:images])
        self.test, self.labels = preprocess(x[-images:]), torch.as_tensor(y[-images:])
        self.head: Any = self.model.get_submodule(NETS[name])
        self.features, self.logits = features_and_logits(self.model, self.test)
        self.probe_features, _ = features_and_logits(self.model, self.probes)

    def drawn(self, target: int, count: int, seed: int) -> Tensor:
        own = (self.probe_labels == target).nonzero()[:, 0]
        return own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[:count]]

    def accuracies(self, logits: Tensor, target: int) -> tuple[float, float]:
        """Of the class, and of the others."""
        right, own = logits.argmax(1) == self.labels, self.labels == target
        return float(right[own].float().mean()), float(right[~own].float().mean())

    def answers(self) -> Tensor:
        """Logits of the test images by the classifier as it now is, from the features that no edit of it changes."""
        return self.features @ self.head.weight.T + self.head.bias


def share(part: float, whole: int) -> int:
    return max(1, round(part * whole))


def grid(net: Net, classes: Sequence[int]) -> list[dict[str, Any]]:
    weight = net.head.weight.detach()
    found: dict[tuple[str, float, float], list[tuple[float, float]]] = {}
    width = weight.shape[1]
    for target in classes:
        probes = net.probe_features[net.drawn(target, FEW, 0)]
        labels = torch.full((len(probes),), target)
        for k in K:
            ranking = rank_edges(probes, weight, labels, (target,), share(k, width)).orders[target]
            for h in H:
                units = ranking[: share(h, width)]
                for path in ("target", "all"):
                    changed = weight.clone()
                    rows = changed if path == "all" else changed[target : target + 1]
                    rows[:, units] = 0.0
                    logits = net.features @ changed.T + net.head.bias
                    found.setdefault((path, k, h), []).append(net.accuracies(logits, target))
    return [
        {"path": path, "k": k, "budget": h, **_means(accuracies)} for (path, k, h), accuracies in found.items()
    ]  # fmt: skip


def rules(net: Net, classes: Sequence[int]) -> list[dict[str, Any]]:
    patterns = estimate_patterns(net.model, net.probes[:PATTERN_IMAGES].split(100))
    composites: dict[str, Any] = {name: name for name in RULES}
    composites |= {name: made(patterns) for name, made in PATTERNS.items()}
    picked: dict[str, dict[int, set[tuple[str, int]]]] = {}
    rows = []
    for name, composite in composites.items():
        found = []
        for target in classes:
            probes = net.probes[net.drawn(target, FEW, 0)]
            others = torch.cat([net.drawn(c, 20, 0) for c in range(10) if c != target])
            retain = net.probes[others], net.probe_labels[others]
            result = zsu_fast.forget(
                net.model, target, probes, method="channels", composite=composite, score="contrastive", scope="global",
                retain_probes=retain, budget=MASKED,
            )  # fmt: skip
            after = evaluate(net.model, net.test, net.labels, target)
            result.patch.revert(net.model)
            assert after.forget_accuracy is not None and after.retain_accuracy is not None
            found.append((after.forget_accuracy, after.retain_accuracy))
            units = {(layer, unit) for layer, units in result.picks.items() for unit in units}
            picked.setdefault(name, {})[target] = units
        shared = [len(picked[name][c] & picked["epsilon"][c]) / len(picked["epsilon"][c]) for c in classes]
        rows.append({"rule": name, "as_epsilon": mean(shared), **_means(found)})
    return rows


def by_probes(net: Net, classes: Sequence[int]) -> list[dict[str, Any]]:
    """Number of probes, and Gaussian noise on 36 of them (in units of the images' standard deviation)."""
    spread = float(net.probes.std())
    rows = []
    settings = [("probes", count, 0.0) for count in PROBES] + [("noise", FEW, noise) for noise in NOISE]
    for what, count, noise in settings:
        found, reached, forgotten = [], 0, 0
        for target in classes:
            for seed in range(DRAWS):
                images = net.probes[net.drawn(target, count, seed)]
                generator = torch.Generator().manual_seed(seed)
                images = images + noise * spread * torch.randn(images.shape, generator=generator)
                result = zsu_fast.forget(net.model, target, images, seed=seed)
                found.append(net.accuracies(net.answers(), target))
                result.patch.revert(net.model)
                reached += result.reached
                forgotten += result.verdict.forgotten
        runs = len(found)
        row = {"what": what, "probes": count, "noise": noise, "runs": runs, "reached": reached}
        rows.append(row | {"forgotten": forgotten, **_means(found)})
    return rows


def _means(accuracies: Sequence[tuple[float, float]]) -> dict[str, float]:
    left, others = zip(*accuracies, strict=True)
    return {"answers": mean(left), "worst": max(left), "others": mean(others)}


def table(results: dict[str, Any]) -> str:
    parts = [f"{machine.in_a_line(results['machine'])}. Accuracies in %, on test images, means over classes."]
    for name, net in results["nets"].items():
        left, others = net["before"]["answers"], net["before"]["others"]
        parts.append(f"**{name}** (before: the class {100 * left:.1f}, the others {100 * others:.1f})")
        for path in ("target", "all"):
            points = {(row["k"], row["budget"]): row for row in net["grid"] if row["path"] == path}
            lines = [
                [f"{k:g}", *(f"{100 * points[k, h]['answers']:.1f} ({100 * points[k, h]['others']:.1f})" for h in H)]
                for k in K
            ]
            rows = "weights to the class" if path == "target" else "weights to all classes"
            lead = "no more are taken than speak for the class"
            parts.append(f"The class (the others), by k and H as shares of the inputs ({lead}), {rows} zeroed:")
            parts.append(markdown(["k \\ H", *(f"{h:g}" for h in H)], lines))
        lines = [
            [row["rule"], *(f"{100 * row[key]:.1f}" for key in ("answers", "others")), f"{100 * row['as_epsilon']:.0f}"]
            for row in net["rules"]
        ]
        named = f"classes {', '.join(map(str, net['rule_classes']))}"
        parts.append(f'Rules, {100 * MASKED:.0f} % of the units masked ("channels"), {named}:')
        parts.append(markdown(["rule", "the class", "the others", "units shared with epsilon, %"], lines))
        lines = [
            [
                f"{row['probes']}", f"{row['noise']:g}", f"{100 * row['answers']:.1f}", f"{100 * row['worst']:.1f}",
                f"{100 * row['others']:.1f}", f"{row['forgotten']} of {row['runs']}",
            ]
            for row in net["probes"]
        ]  # fmt: skip
        parts.append("Number of probes and noise on them, the default method:")
        header = ["probes", "noise, σ of the images", "the class", "at worst", "the others", 'verdict "answers"']
        parts.append(markdown(header, lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--images", type=int, default=3000, help="probes are drawn from, and as many judge")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="renew docs/benchmark.md from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    known = oracles.definitions(arguments.data)
    results: dict[str, Any] = {
        "kind": "zsu_fast ablation",
        "machine": machine.describe(torch.device("cpu")),
        "nets": {},
    }
    for name in arguments.nets:
        net = Net(name, known, arguments.images)
        before = [net.accuracies(net.logits, target) for target in arguments.classes]
        rule_classes = [target for target in RULE_CLASSES if target in arguments.classes]
        results["nets"][name] = {
            "before": _means(before),
            "grid": grid(net, arguments.classes),
            "rule_classes": rule_classes,
            "rules": rules(net, rule_classes),
            "probes": by_probes(net, arguments.classes),
        }
        print(name, file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
