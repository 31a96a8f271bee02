"""NARS, the joint search for a network and its training recipe (arXiv 2006.02049)."""
