"""A run with several classes on disk: its files, its picture and its page."""
