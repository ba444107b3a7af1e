"""What is in a checkpoint, what it costs, and what each stage can do with it: `mlcompress inspect`."""

from mlcompress.inspection.facts import facts, section_of

__all__ = ["facts", "section_of"]
