"""Which channels go first: a table of criteria, one file each."""
