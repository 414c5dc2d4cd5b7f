"""Pods: their defaults, rules and what tables print of them; pod templates go by the same."""
