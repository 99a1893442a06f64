"""A group without distillation ("Ind" in the OKDDip paper): what more members alone bring.

In a branch-based group the members still share their trunk.
"""

from trainer.methods.single import Single


class Independent(Single):
    """Σ CE over the members."""
