"""Keep the cluster's objects: history and cache (pure), sqlite (the disk), embedded (the store of one process)."""
