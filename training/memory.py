"""Whether a batch has room, said before it is tried."""

from training.bounds import Work
from training.options import FitError

NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch says it, in small letters: `torch.OutOfMemoryError` on a GPU, a bare RuntimeError on a CPU."""


def need_room(name: str, batch: int, work: Work, weights: int, free: int | None) -> None:
    """Refuse a batch whose kept maps alone are more than there is.

    Args:
        weights: bytes of the weights; their gradients and moments take three times as much more.
        free: bytes; None: nobody knows, and it is tried.

    Raises:
        FitError: with the batch that would fit.
    """
    if free is not None and batch * work.kept + 4 * weights > free:
        raise FitError(no_room(name, batch, work, weights, free))


def no_room(name: str, batch: int, work: Work, weights: int, free: int) -> str:
    """The message: what is needed, what there is, what would fit."""
    fits = int((free - 4 * weights) / max(work.kept, 1))
    advice = f"a batch of {fits} would fit" if fits >= 2 else "not even a batch of 2 would fit: take a smaller network"
    need = (batch * work.kept + 4 * weights) / 1e9
    there = f"takes about {need:.1f} GB, {free / 1e9:.1f} GB are free"
    return f"candidate {name}: out of memory: batch={batch} {there}; {advice}"


def is_no_room(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_ROOM)
