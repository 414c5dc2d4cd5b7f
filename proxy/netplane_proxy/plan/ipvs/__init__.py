"""Compile the meaning of Services to IPVS: virtual servers, the addresses they stand on, and a table of policy.

IPVS chooses and translates; a small nftables table of its own does what IPVS cannot. `tables` is that table, `rows`
what one Service port asks for, `book` what all of them do. run/ipvs brings it to the kernel.

    a packet to a frontend → `guard`: refused, dropped, or marked for the servers of the cluster's backends
                           → IPVS: a backend → `postrouting`: masqueraded or not

IPVS sees what is delivered to the node itself, so every address of a frontend stands on the dummy link
`netplane-ipvs`. Where the client decides between local and all backends (externalTrafficPolicy Local), the server at
the frontend has the local ones, and one known by a packet mark has all of them, for pods and the node itself.
"""
