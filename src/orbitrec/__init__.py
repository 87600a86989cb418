"""orbitrec: orbit recovery by moments and likelihood.

Multireference alignment and single-particle cryo-EM from one set of tensors; see ``docs/architecture.md``.
"""

__version__ = "0.1.0"
