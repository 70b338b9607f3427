"""A figure that notebooks show although it is none of pyplot's. Imported when the first figure is drawn: matplotlib is
an extra."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from zsu_fast.plot.canvas import save


class NotebookFigure(Figure):
    """IPython asks for `_repr_png_` unless ``%matplotlib inline`` told it how to show figures."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        save(self, file, "png", dpi=100)
        return file.getvalue()
