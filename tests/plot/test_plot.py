"""What the pictures show is what the numbers say: colours, scales, bars, and inputs of every shape and kind."""

import io
import pickle
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from zsu_fast import plot
from zsu_fast.lrp.conservation import Conservation, LayerBalance, Loss
from zsu_fast.plot.colours import (
    MISSING,
    NEGATIVE,
    POSITIVE,
    as_maps,
    as_pixels,
    colour,
    limit_of,
    overlaid,
    sum_cells,
)

BAD = [round(255 * part) for part in to_rgba(MISSING)]


def drawn(figure: Figure) -> list[np.ndarray]:
    """The pixels of every panel, in order."""
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_red_is_for_blue_against_white_none_grey_not_a_number() -> None:
    values = np.array([[-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0, np.nan, np.inf]])
    pixels = colour(values, 1.0)[0].astype(int)
    assert pixels[3].tolist() == [255, 255, 255, 255]
    assert (pixels[:3, 2] > pixels[:3, 0]).all() and (pixels[4:7, 0] > pixels[4:7, 2]).all()
    assert (pixels[0] == pixels[1]).all() and (pixels[6] == pixels[5]).all()  # clipped, not wrapped
    assert pixels[7].tolist() == pixels[8].tolist() == BAD


@pytest.mark.parametrize("cmap", ["seismic", "bwr", "RdBu_r"])
def test_zero_is_the_middle_of_the_map(cmap: str) -> None:
    centre, faint = colour(np.array([[0.0, 1e-9]]), 1.0, cmap)[0].astype(int)
    assert (centre == faint).all() and centre.min() >= 245


def test_the_limit_is_a_percentile_of_the_size() -> None:
    values = np.array([-1000.0] + [1.0] * 999)
    assert limit_of(values) == 1.0 and limit_of(values, clip=100) == 1000.0
    assert limit_of(np.array([np.nan, -2.0, np.inf]), clip=100) == 2.0
    assert limit_of(np.zeros((3, 3))) == limit_of(np.full(3, np.nan)) == 1.0
    assert limit_of(np.array([0.0] * 999 + [-3.0])) == 3.0  # sparse: the percentile is 0
    for clip in (0, -1, 101):
        with pytest.raises(ValueError, match="clip"):
            limit_of(values, clip)


def test_cells_keep_the_sum() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 7, 10))
    cells = sum_cells(maps, 3)
    assert cells.shape == (2, 3, 4)
    np.testing.assert_allclose(cells.sum((1, 2)), maps.sum((1, 2)))
    np.testing.assert_allclose(cells[:, 2, 3], maps[:, 6:, 9:].sum((1, 2)))
    for cell in (0, 1.5, True):
        with pytest.raises(ValueError, match="cell"):
            sum_cells(maps, cell)  # type: ignore[arg-type]


def test_an_image_shines_through_where_there_is_no_relevance() -> None:
    pixels = np.zeros((1, 3, 3), np.uint8)
    pixels[0, 1] = 255
    over = overlaid(pixels, np.array([[0.0, 0.0, 1.0]]), 1.0)[0].astype(int)
    assert over[0].tolist() == [110, 110, 110, 255] and over[1].tolist() == [255, 255, 255, 255]
    assert over[2].tolist() == colour(np.array([[1.0]]), 1.0)[0, 0].tolist()


def test_images_in_every_shape_and_range() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    assert (as_pixels(rgb) == rgb).all()
    assert (as_pixels(torch.from_numpy(rgb).permute(0, 3, 1, 2)) == rgb).all()
    assert (as_pixels(torch.from_numpy(rgb).permute(0, 3, 1, 2).half() / 255) == rgb).mean() > 0.9
    normalised = (torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    stretched = as_pixels(normalised)
    assert stretched.min((1, 2, 3)).tolist() == [0, 0] and stretched.max((1, 2, 3)).tolist() == [255, 255]
    assert as_pixels(torch.rand(2, 1, 5, 7)).shape == (2, 5, 7, 1)
    assert as_pixels(torch.rand(2, 9, 5, 7)).shape == (2, 5, 7, 1)
    assert as_pixels(torch.full((1, 3, 2, 2), torch.nan)).max() == 0
    with pytest.raises(ValueError, match="images must be"):
        as_pixels(torch.rand(5, 7))


@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 8), (3, 3, 6, 14), (2, 11, 14, 6), (2, 8, 8), (20, 1, 4, 4), (1, 3, 2, 90)]
)
def test_a_map_for_every_sample(shape: tuple[int, ...]) -> None:
    relevance = torch.randn(shape).to(torch.bfloat16 if len(shape) == 3 else torch.float32).requires_grad_()
    maps = as_maps(relevance)
    figure = plot.heatmaps(relevance)
    panels = drawn(figure)
    assert len(panels) == shape[0]
    for panel, values in zip(panels, maps, strict=True):
        assert (panel == colour(values, limit_of(values))).all()


def test_images_beside_and_targets_side_by_side() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    found = {title: SimpleNamespace(input=torch.randn(3, 2, 8, 8) * size) for title, size in (("cat", 1), ("dog", 9))}
    figure = plot.heatmaps(found, images, samples=["a", "b", "c"])
    panels = drawn(figure)
    assert len(panels) == 9 and all((panels[3 * i] == images[i]).all() for i in range(3))
    assert (panels[5] == colour(as_maps(found["dog"])[1], limit_of(as_maps(found["dog"])[1]))).all()
    assert [ax.get_title() for ax in figure.axes[:3]] == ["image", "cat", "dog"]
    assert [ax.get_xlabel() for ax in figure.axes[:9:3]] == ["a", "b", "c"]
    assert [t.get_text() for t in figure.axes[-1].get_yticklabels()] == ["against", "none", "for"]


def test_what_shares_a_scale() -> None:
    found = {title: torch.randn(2, 1, 8, 8) * size for title, size in (("a", 1.0), ("b", 5.0))}
    maps = np.stack([as_maps(values) for values in found.values()])
    of_sample = drawn(plot.heatmaps(found, scale="sample"))
    assert (of_sample[0] == colour(maps[0, 0], limit_of(maps[:, 0]))).all()
    together = plot.heatmaps(found, scale="all", clip=100)
    assert (drawn(together)[3] == colour(maps[1, 1], np.abs(maps).max())).all()
    ticks = [t.get_text() for t in together.axes[-1].get_yticklabels()]
    assert ticks == [f"−{np.abs(maps).max():.2g}", "0", f"{np.abs(maps).max():.2g}"]


def test_the_image_under_the_map() -> None:
    relevance, images = torch.randn(2, 3, 10, 10), torch.rand(2, 3, 10, 10)
    (first, _) = drawn(plot.heatmaps(relevance, images, overlay=True, cell=4))
    cells = sum_cells(as_maps(relevance), 4)[0]
    under = overlaid(as_pixels(images)[0], cells.repeat(4, 0).repeat(4, 1)[:10, :10], limit_of(cells))
    assert (first == under).all()
    assert (drawn(plot.heatmap(relevance[0], images[0], cell=4))[0] == under).all()


def test_zero_and_not_finite_relevance_are_drawn_as_such() -> None:
    relevance = torch.zeros(3, 3, 4, 4)
    relevance[1] = torch.nan
    relevance[2, 0, 0, 0], relevance[2, 0, 1, 1], relevance[2, 1, 1, 1] = torch.inf, torch.inf, -torch.inf
    zero, missing, some = drawn(plot.heatmaps(relevance))
    assert (zero == 255).all() and (missing == BAD).all()
    assert (some[0, 0] == BAD).all() and (some[1, 1] == BAD).all() and (some[2:] == 255).all()
    assert len(drawn(plot.heatmaps(relevance, torch.rand(3, 3, 4, 4), overlay=True))) == 3


UNITS = {"a": torch.tensor([[1.0, -2.0, 0.5], [3.0, -4.0, 0.5]]), "b.heads": torch.tensor([[5.0], [-1.0]])}


def widths(ax, label: str | None = None) -> list[float]:
    found = [c for c in ax.containers if label is None or c.get_label() == label]
    return [bar.get_width() for bar in found[0]]


def test_layers() -> None:
    figure = plot.layers(SimpleNamespace(neurons=UNITS))
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b.heads"] and ax.yaxis_inverted()
    assert widths(ax, "for the class") == [2.5, 2.5] and widths(ax, "against it") == [-3.0, -0.5]
    assert ax.lines[0].get_xdata().tolist() == [-0.5, 2.0]
    assert "mean over 2 samples" in ax.get_xlabel()
    several = plot.layers({"cat": UNITS, "dog": {name: -values for name, values in UNITS.items()}})
    assert [ax.get_title(loc="left") for ax in several.axes] == ["cat", "dog"]
    assert widths(several.axes[1], "for the class") == [3.0, 0.5]
    plot.save(several, io.BytesIO(), "png")
    with pytest.raises(ValueError, match="differ"):
        plot.layers({"cat": UNITS, "dog": {"a": UNITS["a"]}})


def test_neurons_are_the_strongest_first() -> None:
    (ax,) = plot.neurons(UNITS, "a", top=2).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "0"] and widths(ax) == [-3.0, 2.0]
    colours = [bar.get_facecolor() for bar in ax.containers[0]]
    assert colours == [to_rgba(NEGATIVE), to_rgba(POSITIVE)]
    assert [line.tolist() for line in ax.collections[0].get_segments()[0]] == [[-3.5, 0.0], [-2.5, 0.0]]  # quartiles
    assert len(plot.neurons(UNITS, ["a", "b.heads"]).axes) == 2
    titled = plot.neurons({"cat": UNITS, "dog": UNITS}, "a").axes
    assert [ax.get_title(loc="left") for ax in titled] == ["cat\na, 3 units", "dog\na, 3 units"]


def test_values_that_are_not_finite_do_not_hide_the_others() -> None:
    units = {"a": torch.tensor([[torch.nan, 2.0], [1.0, torch.inf]])}
    (ax,) = plot.neurons(units, "a").axes
    assert sorted(widths(ax)) == [0.5, 1.0]
    (ax,) = plot.layers(units).axes
    assert widths(ax, "for the class") == [1.5] and "not finite" in ax.get_xlabel()


def test_hundreds_of_layers() -> None:
    units = {f"features.stage{i}.convolution_with_a_long_name_{i}": torch.randn(2, 3) for i in range(400)}
    figure = plot.layers(units)
    assert len(widths(figure.axes[0])) == 400 and len(figure.axes[0].get_yticklabels()) <= 120
    assert figure.get_figheight() < 40


def books(**kept: float) -> Conservation:
    """Two layers; the upper one is given 10 and keeps what is said, the lower one nothing."""
    passed = 10.0 - sum(kept.values())
    accounts = {"bias": 0.0, "stabiliser": 0.0, "unplaced": 0.0} | {k: v for k, v in kept.items() if k != "rest"}
    upper = LayerBalance(10.0, passed, **accounts, amount=20.0)
    lower = LayerBalance(passed, passed, 0.0, 0.0, 0.0, 20.0)
    lost = (Loss("softmax", "attention", "linearised", 1.5), Loss("add", "", "constant", 1e-9))
    return Conservation(10.0, passed - 1.5, {"lower": lower, "upper": upper}, lost, 0.01)


def test_conservation() -> None:
    figure = plot.conservation(SimpleNamespace(conservation=books(bias=3.0, stabiliser=-1.0)))
    flow, kept = figure.axes
    assert [t.get_text() for t in flow.get_yticklabels()] == [
        "input",
        "lower",
        "upper",
        "logits",
        "linearised functions",
    ]
    arrived, passed = (line.get_xdata() for line in flow.lines[:2])
    assert list(arrived) == [8.0, 10.0] and list(passed) == [6.5, 8.0, 8.0, 10.0]
    assert flow.get_title(loc="left") == "accounts balance"
    assert {c.get_label(): [bar.get_width() for bar in c] for c in kept.containers[:4]} == {
        "bias": [0.0, 3.0], "stabiliser": [0.0, -1.0], "unplaced": [0.0, 0.0], "rest": [0.0, 0.0]
    }  # fmt: skip
    assert [bar.get_width() for bar in kept.containers[4]] == [1.5]
    stacked = plot.conservation(books(bias=3.0, unplaced=2.0)).axes[1]
    assert [bar.get_x() for bar in stacked.containers[2]] == [0.0, 3.0]


def test_accounts_that_do_not_balance_are_told() -> None:
    figure = plot.conservation({"cat": books(bias=1.0), "dog": books(rest=4.0)})
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["cat: accounts balance", "", "dog: accounts do not balance, worst: upper", ""]
    plot.save(figure, io.BytesIO(), "png")
    plot.save(plot.conservation(books(bias=float("nan"))), io.BytesIO(), "png")


def test_into_axes_of_the_caller() -> None:
    mine = Figure()
    left, middle, right = mine.subplots(1, 3)
    assert plot.heatmap(torch.randn(3, 4, 4), ax=left) is mine
    assert plot.layers(UNITS, ax=middle) is mine
    assert plot.neurons(UNITS, "a", ax=right) is mine
    assert left.images and middle.containers and right.containers
    for draw in (
        lambda: plot.layers({"x": UNITS, "y": UNITS}, ax=left),
        lambda: plot.neurons(UNITS, [*UNITS], ax=left),
    ):
        with pytest.raises(ValueError, match="ax"):
            draw()


def test_files(tmp_path) -> None:
    figure = plot.neurons(UNITS, "a")
    for name in ("a.png", "b.png", "a.svg"):
        plot.save(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    for name in ("a.pdf", "a"):
        with pytest.raises(ValueError, match=r"\.png or \.svg"):
            plot.save(figure, tmp_path / name)


MAPS = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.heatmaps(torch.zeros(2, 10)), r"relevance must be that of images.*\[2, 10\]"),
        (lambda: plot.heatmaps(torch.zeros(0, 3, 4, 4)), "relevance must be that of images"),
        (lambda: plot.heatmaps({}), "relevance is empty"),
        (lambda: plot.heatmaps({"a": MAPS, "b": MAPS[:1]}), "of one size"),
        (lambda: plot.heatmaps(MAPS, MAPS[:1]), "images must be as many"),
        (lambda: plot.heatmaps(MAPS, torch.zeros(2, 3, 5, 5), overlay=True), r"images must have the size.*\[4, 4\]"),
        (lambda: plot.heatmaps(MAPS, overlay=True), "overlay: there are no images"),
        (lambda: plot.heatmaps(MAPS, samples=["a"]), "samples must be 2"),
        (lambda: plot.heatmaps(MAPS, scale="row"), "scale must be"),
        (lambda: plot.heatmaps(MAPS, cell=0), "cell must be"),
        (lambda: plot.heatmaps(MAPS, cmap="reds"), "cmap must be.*reds"),
        (lambda: plot.heatmaps(torch.zeros(700, 1, 2, 2)), "at most 600"),
        (lambda: plot.layers({}), "some layers|is empty"),
        (lambda: plot.layers({"a": torch.zeros(3)}), r"'a' must be \[N, units\], got \[3\]"),
        (lambda: plot.layers(torch.zeros(3)), "relevance must be a Relevance"),
        (lambda: plot.conservation(SimpleNamespace(conservation=None)), "conservation=True"),
        (lambda: plot.conservation({}), "relevance is empty"),
        (lambda: plot.neurons(UNITS, "c"), "layer must be one of a, b.heads, got 'c'"),
        (lambda: plot.neurons(UNITS, []), "1 to 48 panels"),
        (lambda: plot.neurons(UNITS, "a", top=0), "top must be"),
    ],
)  # fmt: skip
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: plot.heatmaps(MAPS), lambda: plot.layers(UNITS), lambda: plot.neurons(UNITS, "a")):
        with pytest.raises(ImportError, match=r"zsu-fast\[report\]"):
            call()


@pytest.mark.slow
def test_nothing_global_is_touched(tmp_path) -> None:
    code = """
import sys, torch
import zsu_fast
assert not any(name.startswith("matplotlib") for name in sys.modules), "imported before it is needed"
import matplotlib
settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
zsu_fast.plot.save(zsu_fast.plot.heatmaps(torch.randn(2, 3, 4, 4)), sys.argv[1])
zsu_fast.plot.layers({"a": torch.randn(2, 3)}), zsu_fast.plot.neurons({"a": torch.randn(2, 3)}, "a")
assert "matplotlib.pyplot" not in sys.modules and settings() == before
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], check=True, timeout=120)


def test_contact_sheet() -> None:
    """Pictures of any size and colour, each beside what is seen of it, captions as they are typed."""
    pictures = [
        np.full((h, w, c), 90, np.uint8) for h, w, c in ((8, 20, 3), (30, 9, 1), (4, 4, 3), (5, 5, 3), (6, 7, 1))
    ]
    figure = plot.contact_sheet(pictures, torch.rand(5, 1, 6, 6), ["$a_b$\nc"] + ["x" * 99] * 4, [True] + [False] * 4)
    assert [axes.get_images()[0].get_array().shape for axes in figure.axes[:4]] == [
        (8, 20, 3), (6, 6, 3), (30, 9, 3), (6, 6, 3),
    ]  # fmt: skip
    assert [text.get_text() for text in figure.texts[:2]] == ["$a_b$\nc", "x" * 43 + "…"]
    assert [text.get_weight() for text in figure.texts[:2]] == ["bold", "normal"]
    plot.save(figure, io.BytesIO(), "png")
    for given in ((pictures[:4], 5), (pictures, 4), ([], 0)):
        with pytest.raises(ValueError, match="captions|images must be numbers"):
            plot.contact_sheet(given[0], torch.rand(given[1], 1, 6, 6), ["x"] * len(given[0]))


def test_a_notebook_shows_figures() -> None:
    """Also without pyplot and its inline backend, and after a copy."""
    figure = plot.heatmap(torch.ones(8, 8))
    copied = pickle.loads(pickle.dumps(figure))
    for one in (figure, copied):
        assert one._repr_png_().startswith(b"\x89PNG")
