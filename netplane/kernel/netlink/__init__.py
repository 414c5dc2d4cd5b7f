"""What all that speaks netlink shares: nftables, IPVS, WireGuard, links and connection tracking.

`wire` is the form of messages and attributes (pure), `channel` a socket that sends them and reads the answers, and
`generic` knows the families that have a name instead of a number. What a message says is for the rooms beside this one.
"""
