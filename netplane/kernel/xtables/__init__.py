"""iptables and ip6tables, of the legacy and of the nft variant: chains of ours as text, loaded by iptables-restore.

`objects` are chains, rules and what changes them, `diff` compares; both are pure. `run` starts the tools, `lock` names
who holds the lock they wait for, `stamp` tells cheaply whether tables changed, `fake` stands in for `run`.
`walk` reads and `restore` loads by python-iptables, each in a `child`: a process of its own (`walker`, `restorer`).
"""
