"""What the processes of a run found, together."""

from itertools import chain
from typing import Protocol, TypeVar

import ignite.distributed as idist


class Record(Protocol):
    """Something found in one case; it must pickle."""

    @property
    def case(self) -> str:
        """Path of the volume's file."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


def gather(records: list[AnyRecord]) -> list[AnyRecord]:
    """The records of all processes, in every process, by case: the same list however cases were shared out.

    All processes must call it. Each case must have been given to one process
    (``monai.data.DistributedSampler`` with ``even_divisible=False``).
    """
    return sorted(chain.from_iterable(idist.all_gather(records)), key=lambda record: record.case)
