"""Signatures and what is made of them: chain, group, chord, map and chunks, stamped, then sent or run inline."""
