"""The thesis's tables and figures, one file each; ``orbitrec reproduce`` runs them."""
