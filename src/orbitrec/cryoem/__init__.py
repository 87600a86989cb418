"""Single-particle cryo-EM: a volume and poses from particle images."""
