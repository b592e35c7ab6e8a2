"""Servers of others, each with an environment of its own, that serve the same model to be measured beside Classy."""
