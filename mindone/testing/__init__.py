"""Helpers for tests that compare networks with reference numbers."""
