"""What runs pods: deployments, replica sets, daemon sets, stateful sets, jobs."""
