"""Keep the objects in etcd v3, shared by several servers.

`wire` is the messages as bytes, `keys` where an object is and what its value looks like (both pure), `client` the
connections to the members and what is done when one is gone, `body` the store, `duties` what a server does for all:
compaction and the leases of short-lived objects.
"""
