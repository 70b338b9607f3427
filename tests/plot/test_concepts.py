"""The picture of what a class is made of."""

import io

import numpy as np
import pytest

from zsu_fast import plot

pytest.importorskip("matplotlib")


def rows(count=3, crops=4, channels=3):
    draw = np.random.default_rng(0)
    return [
        (f"concept {i}", 0.3 - 0.1 * i, 0.05, draw.integers(0, 256, (crops, 6, 5, channels), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bar_for_each_share_and_a_panel_for_each_crop(channels):
    figure = plot.concepts(rows(channels=channels), "cat")
    bars, *panels = figure.axes
    assert [patch.get_width() for patch in bars.patches] == pytest.approx([0.3, 0.05, 0.2, 0.05, 0.1, 0.05])
    assert [label.get_text() for label in bars.get_yticklabels()] == ["concept 0", "concept 1", "concept 2"]
    assert len(panels) == 12 and all(panel.images for panel in panels)
    assert [text.get_text() for text in figure.texts] == ["cat"]
    written = [io.BytesIO(), io.BytesIO()]
    for buffer in written:
        plot.save(plot.concepts(rows()), buffer, "png")
    assert written[0].getvalue() == written[1].getvalue()


def test_what_is_wrong_is_named():
    for count in (0, 25):
        with pytest.raises(ValueError, match=f"rows: expected 1 to 24 concepts, got {count}"):
            plot.concepts(rows(count))
