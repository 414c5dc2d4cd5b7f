"""Answer the API server: logs, exec, attach, port-forward, and how the node is (the kubelet's own paths)."""
