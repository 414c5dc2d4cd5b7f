"""Run pods with crun and conmon, without a daemon: every fact is in files, and a new agent adopts what runs."""
