"""Strategies that spread one network over several ranks."""
