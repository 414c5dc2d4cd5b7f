"""The images that come with netplane, built from what a Debian machine already has. Keeping images is `images`'."""
