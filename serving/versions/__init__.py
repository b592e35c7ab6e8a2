"""Which model answers whom: the ledger followed, models loaded beside each other and swapped."""
