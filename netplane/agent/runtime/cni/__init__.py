"""Give sandboxes their network by executing CNI plugins, as any container runtime does (CNI specification 1.0/1.1)."""
