"""The front of an edit holds what edits of these sizes really do, and looking at it changes nothing."""

import copy
import json

import pytest
import torch

import zsu_fast
from zsu_fast.evaluate import evaluate, features, linear_probe
from zsu_fast.unlearn import ForgetInstances, forget, model_digest, search
from zsu_fast.unlearn.front import undominated

pytest.importorskip("sklearn")


@pytest.fixture
def given(digits):
    """(probes, retain images of the others, images for the front), none in common."""
    probes, own, others_x, others_y = digits.split(3)
    front = torch.cat([own, others_x[1::2]]), torch.cat([torch.full((len(own),), 3), others_y[1::2]])
    return probes, (others_x[::2][:120], others_y[::2][:120]), front


@pytest.mark.parametrize(
    ("options", "searched"),
    [
        ({"method": "lra-npp", "path": "all"}, {"utility_floor": 0.8}),
        ({"method": "channels", "layers": ("hidden",)}, {"budget": 12}),
    ],
    ids=["a search", "a fixed budget"],
)
def test_each_point_is_what_an_edit_of_its_size_does(conv_net, given, options, searched):
    probes, retain, (x, y) = given
    options = options | {"retain_probes": retain}
    plain = copy.deepcopy(conv_net)
    without = forget(plain, 3, probes, **options, **searched)
    result = forget(conv_net, 3, probes, front=(x, y), **options, **searched)
    assert model_digest(plain) == model_digest(conv_net), "looking at a front changes nothing"
    assert without.front == [] and result.trace == without.trace
    assert result.front == json.loads(json.dumps(result.front)) == result.patch.record["front"]
    (chosen,) = (point for point in result.front if point["chosen"])
    assert (chosen["budget"], chosen["mode"]) == (result.budget, result.record["mode"])
    result.patch.revert(conv_net)
    lessons = search.folds(y, 2, 0)[0]
    for point in (result.front[0], chosen, result.front[-1]):
        net = copy.deepcopy(conv_net)
        if point["budget"]:
            forget(net, 3, probes, budget=point["budget"], mode=point["mode"], **options)
        found = evaluate(net, x[~lessons], y[~lessons], 3)
        assert point["answers"] == found.forget_accuracy and point["others"] == found.retain_accuracy
        shown, judged = features(net, x[lessons]), features(net, x[~lessons])
        probe = linear_probe(shown, y[lessons], judged, y[~lessons], 3)
        assert point["linear_probe"] == probe.forget_accuracy
        assert point["images"] == int((y[~lessons] == 3).sum())
    assert len({p["budget"] for p in result.front}) > 5
    for point in result.front:
        assert point["undominated"] is undominated(point, result.front)


def test_undominated_points():
    def point(answers, probe, others, prototype=None):
        return {"answers": answers, "linear_probe": probe, "others": others, "prototype": prototype}

    points = [point(0.9, 0.9, 0.9), point(0.1, 0.8, 0.9), point(0.1, 0.8, 0.8), point(0.2, 0.7, 0.8)]
    assert [undominated(p, points) for p in points] == [False, True, False, True]
    assert undominated(points[0], [points[0], points[0]]), "equal ones do not beat each other"


def test_it_is_there_where_nothing_was_reached(conv_net, given):
    probes, retain, front = given
    before = model_digest(conv_net)
    options = {"method": "channels", "layers": ("hidden",), "retain_probes": retain, "until": 0.0}
    result = forget(conv_net, 3, probes, utility_floor=1.0, front=front, **options)
    assert not result.reached and model_digest(conv_net) == before
    assert len(result.front) > 3 and not any(point["chosen"] for point in result.front)


def test_the_default_method_has_one_of_the_paths_it_may_cut(conv_net, given):
    probes, _, front = given
    result = forget(conv_net, 3, probes, front=front)
    points = result.front
    assert points[0]["budget"] == 0 and points[0]["answers"] > 0.8 and points[-1]["chosen"]
    assert points[-1]["answers"] == 0 and {point["linear_probe"] for point in points} == {points[0]["linear_probe"]}


def test_what_does_not_fit_is_refused_before_anything_is_changed(conv_net, given):
    probes, _, (x, y) = given
    before = model_digest(conv_net)
    for front, text in (
        ((x, y + 20), "front labels: the model has classes 0..9"),
        ((x[y != 3], y[y != 3]), "front: must hold two images at least of the class"),
        ((x[y == 3], y[y == 3]), "front: must hold two images at least of the class"),
        (x, r"front: expected a pair \(images, labels\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            forget(conv_net, 3, probes, front=front)
    with pytest.raises(ValueError, match="front: requests to forget classes have one"):
        forget(conv_net, ForgetInstances(x[:2], y[:2]), method="margin", front=(x, y))
    assert model_digest(conv_net) == before


def test_a_picture(conv_net, given, tmp_path):
    pytest.importorskip("matplotlib")
    probes, retain, front = given
    result = forget(conv_net, 3, probes, method="channels", layers=("hidden",), retain_probes=retain, front=front)
    figure = zsu_fast.plot.front(result.front)
    zsu_fast.plot.save(figure, tmp_path / "front.png")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["answers", "linear probe", "prototype row"]
    with pytest.raises(ValueError, match="points: there are none"):
        zsu_fast.plot.front([])
