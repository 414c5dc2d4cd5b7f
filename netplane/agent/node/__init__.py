"""Be a node of the cluster: what to say of it (`objects`), reading the machine (`machine`), saying it (`register`)."""
