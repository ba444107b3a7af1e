"""What is in a checkpoint, what it costs, and what each stage can do with it: `mlcompress inspect`."""

from mlcompress.inspection.facts import facts, section_of
from mlcompress.inspection.groups import group_facts
from mlcompress.inspection.sensitivity import sensitivity_facts

__all__ = ["facts", "group_facts", "section_of", "sensitivity_facts"]
