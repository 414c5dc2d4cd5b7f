"""The nftables backend: make the kernel hold what plan/nftables compiles, adopt what is there, hear who interferes."""

from __future__ import annotations

from netplane_proxy.run.nftables.target import NftablesTarget, open_target

__all__ = ["NftablesTarget", "open_target"]
