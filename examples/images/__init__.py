"""Thumbnails, sizes and filters of real image files, and a manifest of all of them."""
