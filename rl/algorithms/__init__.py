"""The algorithms, one file each, over one shared runtime."""
