"""IPVS, the kernel's load balancer, by hand-packed generic netlink.

`objects` are virtual servers and changes of them, `wire` their netlink form, `diff` what turns the servers that are
there into those wanted; all of these are pure. `run` talks to the kernel, `fake` stands in for it.
"""
