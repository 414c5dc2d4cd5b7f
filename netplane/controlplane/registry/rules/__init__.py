"""Rules that fields of many types share: names, labels, quantities, metadata."""
