"""Pictures of the thesis's figures."""
