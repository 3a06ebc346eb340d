"""From a shard to a batch: shards, clips, plans, the DALI graph and the loader. Knows nothing of models."""

__version__ = "0.1.0"
