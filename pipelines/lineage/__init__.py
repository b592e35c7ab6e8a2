"""Where a generation came from: its chain, looked at link by link, kept, and told as OpenLineage events."""
