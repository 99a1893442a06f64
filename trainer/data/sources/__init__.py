"""Data sets on disk, one file a source; ``trainer.registry.DATA_SETS`` names them."""
