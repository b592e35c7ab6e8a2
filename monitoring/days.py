"""Days of data time, all UTC."""

from datetime import UTC, date, datetime, time, timedelta


def end_of(day: date) -> datetime:
    """When a day is over and its steps run: the next midnight, UTC."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def start_of(day: date) -> datetime:
    """Its first moment, UTC."""
    return datetime.combine(day, time(), UTC)
