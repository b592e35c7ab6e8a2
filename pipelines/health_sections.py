"""The part of a recipe that says how the service should do: volume, latency, errors, quarantine, features, senders."""

from pydantic import Field

from pipelines.sections import Section


class Health(Section):
    """When a fact about a day's service is BAD. None of it asks for a training: it is shown, and Prometheus tells."""

    history_days: int = Field(default=28, ge=1, le=366)
    """A day is compared with so many before it, those that brought photos. Four weeks have each weekday alike."""
    min_days: int = Field(default=7, ge=1)
    """With fewer days to compare with, throughput and missing senders are UNKNOWN."""
    min_volume: float = Field(default=0.3, ge=0, lt=1)
    """A day with less than this share of the median of the days before is BAD."""
    min_live: int = Field(default=100, ge=1)
    """Live photos of a day before its latency and error rate are told."""
    max_p50_ms: float = Field(default=250.0, gt=0)
    """Half of the live photos must be answered within this time."""
    max_p99_ms: float = Field(default=1000.0, gt=0)
    """99% of them within this."""
    max_error_rate: float = Field(default=0.01, gt=0, lt=1)
    """Share of live photos that may fail by the server's fault."""
    max_quarantine_rate: float = Field(default=0.05, gt=0, lt=1)
    """Share of the day's photos that may go to quarantine. `validation.max_bad_share` stops the day."""
    max_defaulted_rate: float = Field(default=0.5, gt=0, lt=1)
    """Share of photos that may be answered without knowing their sender."""
    max_feature_age_days: float = Field(default=1.0, ge=0)
    """Days since the sender profiles were made, at the end of the day; 0 where the day's own are there."""
    missing_alarms: float = Field(default=0.01, gt=0, lt=0.5)
    """Chance that a day names senders as missing although all send as they used to."""
    max_missing: int = Field(default=0, ge=0)
    """Senders that may have stopped: a market where sellers come and go has some every day."""
