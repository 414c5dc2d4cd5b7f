"""A whole cluster on one machine: each node a network namespace with its own mounts and cgroup.

`spec` decides names and addresses, `units` which daemons run where; `host` makes and removes namespaces,
`keeper` keeps the daemons running, `up` and `down` put it together, `main` is the command.
"""
