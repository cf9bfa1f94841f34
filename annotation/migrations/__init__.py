"""Migrations of the annotation store, in the order of their numbers."""
