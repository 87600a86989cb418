"""Runs on disk: numbers, tables, pictures and a page."""
