"""A queue of requests on one model: a ledger of patches, resumed where it stopped, undone from any place."""

from zsu_fast.unlearn.queue.ledger import Ledger
from zsu_fast.unlearn.queue.queue import Job, Queue
from zsu_fast.unlearn.queue.rows import Row

__all__ = ["Job", "Ledger", "Queue", "Row"]
