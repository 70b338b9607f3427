"""Where cells are told of as they are finished: TensorBoard, MLflow, Weights & Biases, each an extra of its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from zsu_fast.benchmark.results import Row
from zsu_fast.extras import require

IDENTITY = ("model", "class", "method", "seed")


class Logger(Protocol):
    """What `benchmark` tells of cells."""

    def log(self, row: Row) -> None:
        """A finished cell, as in `results.csv`."""

    def close(self) -> None:
        """Nothing comes any more."""


class TensorBoardLogger:
    """A scalar for each figure under model/method/figure, the class as step, and the seed as run."""

    def __init__(self, folder: Path, name: str) -> None:
        require("tensorboard", "tensorboard")
        self._writer_of = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, row: Row) -> None:
        run = "reference" if row["seed"] is None else f"seed-{row['seed']}"
        if run not in self._writers:
            self._writers[run] = self._writer_of(str(self._folder / run))
        writer = self._writers[run]
        for key, value in figures(row).items():
            writer.add_scalar(f"{row['model']}/{row['method']}/{key}", value, row["class"])
        if row["error"]:
            writer.add_text(f"{row['model']}/{row['method']}/error", row["error"], row["class"])
        writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class MlflowLogger:
    """A run for each cell, in the experiment of the benchmark's name; the tracking server is the environment's."""

    def __init__(self, folder: Path, name: str) -> None:
        self._mlflow = require("mlflow", "mlflow")
        self._mlflow.set_experiment(name)

    def log(self, row: Row) -> None:
        with self._mlflow.start_run(run_name=_title(row)):
            self._mlflow.log_params({key: row[key] for key in IDENTITY})
            self._mlflow.set_tags({key: str(row[key]) for key in ("outcome", "verdict", "error") if row[key]})
            self._mlflow.log_metrics(figures(row))

    def close(self) -> None:
        """Every run was ended with its cell."""


class WandbLogger:
    """A run for each cell, in the project of the benchmark's name, grouped by model."""

    def __init__(self, folder: Path, name: str) -> None:
        self._wandb = require("wandb", "wandb")
        self._project, self._folder = name, folder

    def log(self, row: Row) -> None:
        run = self._wandb.init(
            project=self._project, name=_title(row), group=row["model"], dir=str(self._folder),
            config={key: row[key] for key in IDENTITY},
        )  # fmt: skip
        run.log(figures(row))
        run.summary.update({key: row[key] for key in ("outcome", "verdict", "error") if row[key]})
        run.finish()

    def close(self) -> None:
        """Every run was ended with its cell."""


class SafeLogger:
    """A logger whose failure is told once and costs no cell: results are in the folder, not with a server."""

    def __init__(self, logger: Logger, told: Callable[[str], None]) -> None:
        self._logger: Logger | None = logger
        self._told = told

    def log(self, row: Row) -> None:
        if self._logger is None:
            return
        try:
            self._logger.log(row)
        except Exception as error:
            self._told(f"{type(self._logger).__name__} failed and is left out from here: {error}")
            self.close()

    def close(self) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            with suppress(Exception):
                logger.close()


LOGGERS: dict[str, Callable[[Path, str], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}


def figures(row: Row) -> dict[str, float]:
    """The numbers of a row that are measurements."""
    return {
        key: float(value)
        for key, value in row.items()
        if key not in IDENTITY and isinstance(value, (int, float)) and value is not None
    }


def _title(row: Row) -> str:
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    return f"{row['model']}, class {json.dumps(row['class'])}, {row['method']}{seed}"
