"""How fast a detector is on this machine, and how much memory it takes: by engine, batch and part."""
