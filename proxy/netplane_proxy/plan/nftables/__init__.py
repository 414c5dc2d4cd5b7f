"""Compile the meaning of Services to nftables: flat maps that a few fixed chains look up.

`layout` is what stands in which map and how it is packed, `skeleton` the chains as text, `rows` the elements of one
Service port, `book` what all of them are and which numbers they were given. run/nftables brings it to the kernel.
"""
