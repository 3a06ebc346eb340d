"""The page of a dataset's shards."""
