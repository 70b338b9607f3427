"""The same images as callers may have them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


class Pairs(Dataset):
    """Images, with labels where there are some, read one by one; `read` counts them."""

    def __init__(self, x: Tensor, y: Tensor | None) -> None:
        self.x, self.y, self.read = x, y, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return self.x[index] if self.y is None else (self.x[index], int(self.y[index]))


class Shards(IterableDataset):
    """As a WebDataset gives them: single images, or batches of uneven sizes."""

    def __init__(self, x: Tensor, y: Tensor | None, sizes: int | None = None) -> None:
        self.x, self.y, self.sizes = x, y, sizes

    def __iter__(self) -> Iterator[Any]:
        if self.sizes is not None:
            yield from batches(self.x, self.y, self.sizes)
            return
        for i in range(len(self.x)):
            yield self.x[i] if self.y is None else (self.x[i], int(self.y[i]))


class Loader:
    """A loader of one's own: any iterable that can begin anew."""

    def __init__(self, x: Tensor, y: Tensor | None, size: int) -> None:
        self.x, self.y, self.size = x, y, size

    def __iter__(self) -> Iterator[Any]:
        return batches(self.x, self.y, self.size)


def batches(x: Tensor, y: Tensor | None, size: int) -> Iterator[Any]:
    buffer = x[:size].clone()  # one for all batches, as fast loaders have it
    for start in range(0, len(x), size):
        part = buffer[: len(x[start : start + size])].copy_(x[start : start + size])
        yield part if y is None else (part, y[start : start + size])


STREAMS: dict[str, Callable[[Tensor, Tensor | None], Any]] = {
    "Dataset": Pairs,
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x) if y is None else TensorDataset(x, y), 7),
    "DataLoader of shards": lambda x, y: DataLoader(Shards(x, y), 5),
    "IterableDataset": Shards,
    "loader": lambda x, y: Loader(x, y, 11),
}
HELD: dict[str, Callable[[Tensor, Tensor | None], Any]] = {
    "tensor": lambda x, y: x if y is None else (x, y),
    "array": lambda x, y: x.numpy() if y is None else (x.numpy(), y.numpy()),
    "list": lambda x, y: list(x) if y is None else [list(x), y.tolist()],
    "list of arrays": lambda x, y: [a.numpy() for a in x] if y is None else ([a.numpy() for a in x], y),
}
SOURCES = STREAMS | HELD
