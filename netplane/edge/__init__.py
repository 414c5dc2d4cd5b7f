"""What stands at the cluster's edge: the ways in from outside."""
