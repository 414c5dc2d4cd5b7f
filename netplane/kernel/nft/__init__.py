"""nftables: tables and rules as text by nft(8), the elements of sets and maps by hand-packed netlink.

`objects` are sets, elements and batches, `wire` their netlink form, `diff` what turns one set of elements into another;
all of these are pure. `run` talks to the kernel, `events` hears what others change there, `fake` stands in for both.
"""
