"""From a listing of videos to a folder of shards: deterministic, in parallel, on one machine or many."""
