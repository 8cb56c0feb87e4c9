"""How one Runner uses a machine: lanes, threads, batches; chosen from the cores, the device and the cost of an item."""

from dataclasses import dataclass

WIDEST = 16
"""The number of threads of the widest session; more were never measured, and B4's operators are small."""
CHEAP_ITEM_S = 0.001
"""An item that one thread decodes and computes in less time than this is so cheap that one lane keeps up."""


@dataclass(frozen=True)
class Plan:
    """What one Runner gets.

    On a CPU a convolutional network runs best as one single-threaded run a core, and batches do not help it
    (`make bench` prints the plain loop for comparison), so an image model gets a lane a core and batches of one. A lane
    that works alone would leave the other cores idle, so there is a session over all of them too. A model that takes
    microseconds, most of them in Python (a network of rows, a tiny one of pictures), gets one lane that runs all that
    waits: more lanes would only contend for the interpreter. A tiny image model answered 1,250 requests/s so, and 840
    with four lanes.

    Attributes:
        lanes: the number of threads, each of which carries an item from its payload to its result.
        widths: the numbers of threads of the sessions that are kept; a run takes the narrowest session that keeps its
            share of the cores busy.
        max_batch: the largest number of items in one run.
        linger_ms: how long a batch that is not full is held back, in milliseconds.
        decoders: the number of threads that preprocess the items of one batch side by side; 0 leaves it to the lane.
    """

    lanes: int = 1
    widths: tuple[int, ...] = (1,)
    max_batch: int = 1
    linger_ms: float = 0.0
    decoders: int = 0

    def __str__(self) -> str:
        text = f"lanes {self.lanes}, threads {'/'.join(map(str, self.widths))}, batch {self.max_batch}"
        text += f", linger {self.linger_ms:g} ms" if self.linger_ms else ""
        return text + (f", decoders {self.decoders}" if self.decoders else "")


def make_plan(cores: int, *, device: str = "cpu", takes_images: bool, item_seconds: float = 1.0) -> Plan:
    """Return the plan of one model.

    An accelerator wants large batches, one at a time: of its two lanes one decodes, with a pool of threads, while the
    other infers.

    Args:
        cores: the number of cores that the Runner may use.
        device: `cpu`, or the name of an accelerator.
        takes_images: whether payloads are pictures, which are worth decoding side by side, or rows.
        item_seconds: how long one thread takes to preprocess and compute one item on a CPU.
    """
    cores = max(1, cores)
    if device != "cpu":
        return Plan(lanes=2, max_batch=32, decoders=cores)
    if takes_images and item_seconds > CHEAP_ITEM_S:
        return Plan(lanes=cores, widths=tuple(sorted({min(cores, WIDEST), 1}, reverse=True)))
    # The large photos of one client are decoded side by side, so that nobody waits behind all of them.
    return Plan(max_batch=64, decoders=cores if takes_images else 0)
