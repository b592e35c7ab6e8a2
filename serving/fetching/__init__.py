"""Photos by their addresses on the web, without being led to places that are not for everyone."""

from serving.fetching.fetcher import Fetcher, FetchLimits

__all__ = ["FetchLimits", "Fetcher"]
