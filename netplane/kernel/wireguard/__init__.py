"""WireGuard devices' keys and peers by generic netlink, packed by hand. The device itself is a link: kernel/link.

`objects` are the facts, `wire` their netlink form, `diff` what turns some peers into others; all of these are pure.
`run` talks to the kernel, `fake` stands in for it.
"""
