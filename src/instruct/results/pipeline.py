"""The definition of the pipeline, dvc.yaml, as far as it must be understood without DVC."""

from typing import Any

from instruct.core.parsing import flatten, mapping

PIPELINE = "dvc.yaml"


def exists(stage: Any, params: Any) -> bool:
    """Whether DVC knows a stage: `foreach` over an empty list makes none."""
    each = mapping(stage).get("foreach")
    return each is None or bool(flatten(mapping(params)).get(each.strip("${} ")) if isinstance(each, str) else each)
