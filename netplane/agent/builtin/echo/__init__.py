"""The echo server of netplane.local/echo: says over HTTP, TCP and UDP who answered whom. Standard library only.

It runs inside containers as the package `echo`, so its modules import each other relatively and nothing of netplane.
"""
