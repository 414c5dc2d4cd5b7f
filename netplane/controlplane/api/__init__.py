"""Speak the Kubernetes API over HTTP. What the objects mean is registry's, keeping them is store's."""
