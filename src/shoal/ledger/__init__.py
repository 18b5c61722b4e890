"""Runs, shards, claims under a lease, and the outcomes that must reconcile."""
