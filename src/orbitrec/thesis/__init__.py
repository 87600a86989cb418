"""The thesis's tables and figures, and all that exists only to reproduce them."""
