"""The parts of a recipe that say how live requests are answered."""

from pydantic import Field, IPvAnyNetwork

from pipelines.sections import Section


class Canary(Section):
    """How a canary is judged while it serves, at any time and as often as one looks."""

    automatic: bool = False
    """Whether a canary is promoted or dropped by itself; if not, its verdict is shown and a person acts."""
    weight: float = Field(default=0.1, gt=0, lt=1)
    """Share of senders that a new canary answers."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """That it is not promoted or dropped by chance, however long it runs."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """How much accuracy a canary may lose and still be promoted."""
    min_truth: int = Field(default=100, ge=1)
    """Labelled answers of the canary before its accuracy decides."""
    error_margin: float = Field(default=0.01, gt=0, lt=1)
    """How much its error rate may exceed the champion's."""
    latency_factor: float = Field(default=1.5, gt=1)
    """How many times as slow its 95th percentile may be."""
    max_days: int = Field(default=14, ge=1)
    """A canary that nothing has decided by then is dropped."""


class Serving(Section):
    """How live requests are answered."""

    max_photos: int = Field(default=64, ge=1, le=4096)
    """Photos of one request."""
    max_request_bytes: int = Field(default=64_000_000, ge=1_000)
    """Of one request's body."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Photos of one run of the model."""
    batch_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """How long a photo may wait for company; 0: what waits anyway goes together, and nobody waits for more."""
    queue: int = Field(default=256, ge=1)
    """Photos that wait; the next one is told to come again (429)."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Of one request."""
    cache: int = Field(default=0, ge=0)
    """Answers that are kept to be given again for the same photo, generation and features; 0: none."""
    url_seconds: float = Field(default=10.0, gt=0)
    """Of one download, from the name's look-up to the last byte."""
    url_hosts: tuple[str, ...] = ()
    """Hosts that photos may come from, such as `*.example.org`; none: every public one."""
    url_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks such as `10.1.0.0/16` that may be asked although they are not public: a photo store of one's own."""
    feature_cache_s: float = Field(default=5.0, ge=0)
    """How long a sender's features are kept in memory."""
    canary: Canary = Canary()
