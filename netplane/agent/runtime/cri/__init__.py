"""Run pods with containerd, CRI-O or any other runtime that speaks CRI v1 (k8s.io/cri-api)."""

import os

# The agent forks to run programs (images are imported so), and what forks only executes: gRPC need not be told, and
# need not tell.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
