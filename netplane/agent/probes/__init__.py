"""Check containers: what the results mean (`tally`), making the checks (`checks`), and when (`run`)."""
