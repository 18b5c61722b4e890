"""Shoal against its peers, every number measured in the same run."""
