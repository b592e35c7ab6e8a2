"""The part of a recipe that says which photos people are asked about."""

from pydantic import Field

from pipelines.sections import Section


class Labelling(Section):
    """Which of a day's photos people are asked about, and how."""

    per_day: int = Field(default=50, ge=0, le=10_000)
    """Photos of a day that are queued at most; 0 switches the queue off."""
    random_share: float = Field(default=0.5, ge=0, le=1)
    """Share of them that is drawn by lot, so that their labels tell of all photos; the others are picked because the
    model is unsure of them, they are far from what it knew, or another model answers otherwise."""
    per_sender: int = Field(default=5, ge=1)
    """Photos of one sender that are picked at most. The lot knows no such bound: who sends half of the photos is half
    of the accuracy."""
    overlap: float = Field(default=0.1, ge=0, le=1)
    """Share of the queued photos that two people label, so that their agreement is known."""
    claim_minutes: float = Field(default=10.0, gt=0, le=1440)
    """A photo that somebody took and did not answer is given to others after so long."""
    preview: int = Field(default=1024, ge=64, le=4096)
    """Longest side in pixels of the photos as they are shown; smaller ones stay as they are."""
    replayed: bool = False
    """Whether photos of a replayed source are queued too, although their labels come by themselves."""
    seed: int = 7
    """Of the lot."""
