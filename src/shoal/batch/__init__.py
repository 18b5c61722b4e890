"""Score files: plan, shards, commit."""
