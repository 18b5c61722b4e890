"""Conformance suites and data makers, for users' own parts and for our own tests."""
