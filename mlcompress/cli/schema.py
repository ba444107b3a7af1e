"""`mlcompress schema`."""

from typing import Annotated

import typer

from mlcompress import console
from mlcompress.errors import UsageError


def schema(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="distill, prune, quantize or report.")],
) -> int:
    """Print the JSON schema of a stage's recipe, for editors.

    Example: mlcompress schema prune > prune.schema.json
    """
    import json

    from mlcompress.stages import NAMES, find

    if stage not in (*NAMES, "report"):
        raise UsageError(f"{stage}: not a stage; choose one of {', '.join(NAMES)}, report")
    console.data(json.dumps(find(stage).schema.model_json_schema(), indent=2))
    return 0
