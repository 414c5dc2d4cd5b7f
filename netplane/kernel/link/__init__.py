"""Interfaces, addresses, routes, neighbours and forwarding entries by rtnetlink(7), packed by hand.

`objects` are the facts and the commands on them, `encode` and `decode` their wire form, `diff` what turns one set of
facts into another; all of these are pure. `run` talks to the kernel, `fake` stands in for it.
"""
