"""The front door: Ingress (and Gateway) objects served by HAProxy. See README.md of `netplane.edge`."""
