"""A client for programs, sync and async."""
