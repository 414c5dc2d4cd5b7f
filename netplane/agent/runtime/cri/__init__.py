"""Run pods with containerd, CRI-O or any other runtime that speaks CRI v1 (k8s.io/cri-api)."""
