"""netplane: a Kubernetes networking data plane, and the compact control plane it stands on."""

__version__ = "0.1.0"
