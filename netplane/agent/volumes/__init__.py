"""Make the folders and files that pods mount: what they hold (`content`), and putting it there (`run`)."""
