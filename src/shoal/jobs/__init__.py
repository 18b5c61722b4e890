"""The states that runs and shards go through."""
