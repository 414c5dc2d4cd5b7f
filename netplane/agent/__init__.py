"""Be a node: register the machine, and run the pods that are bound to it."""
