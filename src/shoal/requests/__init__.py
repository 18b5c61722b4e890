"""What stands between a request and a score: the batcher, caches, lookups, rules and limits."""
