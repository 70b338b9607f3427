"""Pictures of relevance, drawn with matplotlib (extra "report"): heatmaps, bars per layer and per neuron, conservation,
concepts. And texts in colour, which need nothing.

Every function but `text` returns a `matplotlib.figure.Figure`, which notebooks show and `save` (or its own ``savefig``)
writes; none touches pyplot. Those that draw one panel take an ``ax`` of the caller's figure instead.

    rel = zsu_fast.relevance(model, images, composite="epsilon_plus_flat")
    zsu_fast.plot.heatmaps(rel, images).savefig("maps.png")
    zsu_fast.plot.heatmaps({"cat": rel, "dog": other}, images, scale="sample")   # targets side by side
    zsu_fast.plot.layers(rel)
    zsu_fast.plot.neurons(rel, "layer4.1.conv2", top=10)
    zsu_fast.plot.front(result.front)                                            # what each size of an edit costs
    zsu_fast.plot.conservation(zsu_fast.relevance(model, images, conservation=True))
    zsu_fast.plot.contact_sheet(pictures, images, captions)                      # what the model sees of pictures
    zsu_fast.plot.text(rel, [tokenizer.decode([i]) for i in ids[0]]).save("text.html")
    zsu_fast.plot.concepts([(one.name, one.share, one.other, one.crops) for one in explanation.found])
"""

from zsu_fast.plot.balance import conservation
from zsu_fast.plot.bars import layers, neurons
from zsu_fast.plot.canvas import save
from zsu_fast.plot.concepts import concepts
from zsu_fast.plot.contact_sheet import contact_sheet
from zsu_fast.plot.front import front
from zsu_fast.plot.heat import heatmap, heatmaps
from zsu_fast.plot.text import TextMap, text

__all__ = [
    "TextMap", "concepts", "conservation", "contact_sheet", "front", "heatmap", "heatmaps", "layers", "neurons", "save",
    "text",
]  # fmt: skip
