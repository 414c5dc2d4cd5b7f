"""The iptables compiler. `layout` names chains and spells rules, `tree` finds a packet's rules in few steps, `rows`
compiles one Service port, `frame` the chains that every node has; `book` keeps it all and tells what a change touches.
"""
