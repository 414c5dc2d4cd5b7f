"""The IPVS backend: make the kernel hold what plan/ipvs compiles, adopt what is there, let connections end in peace."""

from __future__ import annotations

from netplane_proxy.run.ipvs.target import IpvsTarget, cleanup, open_target, retire

__all__ = ["IpvsTarget", "cleanup", "open_target", "retire"]
