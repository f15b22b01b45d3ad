"""Training data: the procedural world, and shards made from videos."""
