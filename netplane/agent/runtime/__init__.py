"""Run sandboxes and containers. Which ones, and when, is `pods`' to decide."""
