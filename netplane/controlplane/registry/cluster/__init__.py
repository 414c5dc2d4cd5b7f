"""Nodes, namespaces, configuration, roles, events: the smaller types' defaults, rules and columns."""
