"""Prints what of a manifest KServe's own classes do not know; run in the environment of KServe's client.

`python kserve_schema.py manifests.json` takes a list of objects, and prints one line a problem.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from kserve import models
from kubernetes.client import models as kubernetes

KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "ResourceQuantity": str}


def problems(value: object, kind: str, at: str) -> list[str]:
    """Return what of a value is not of the kind that a class names, such as `list[V1Container]`."""
    if inner := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{at}: {value!r} is no list"]
        return [line for place, item in enumerate(value) for line in problems(item, inner[1], f"{at}[{place}]")]
    if inner := re.fullmatch(r"[dD]ict[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{at}: {value!r} is no mapping"]
        return [line for key, item in value.items() for line in problems(item, inner[1], f"{at}.{key}")]
    if kind in PLAIN:
        mismatch = not isinstance(value, PLAIN[kind]) or (kind == "int" and isinstance(value, bool))  # type: ignore[arg-type]
        return [f"{at}: {value!r} is no {kind}"] if mismatch else []
    return fields(value, getattr(models, kind, None) or getattr(kubernetes, kind, None), kind, at)


def fields(value: object, model: Any, kind: str, at: str) -> list[str]:
    """Return what of an object its class does not know."""
    if model is None:  # a port by name or by number
        return [] if kind == "IntOrString" and isinstance(value, int | str) else [f"{at}: no class {kind}"]
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no {kind}"]
    names = {spelt: name for name, spelt in model.attribute_map.items()}
    unknown = [f"{at}.{key}: {kind} has no such field" for key in value if key not in names]
    known = {key: item for key, item in value.items() if key in names}
    for key, item in known.items():
        unknown += problems(item, model.openapi_types[names[key]], f"{at}.{key}")
    return unknown


if __name__ == "__main__":
    for manifest in json.loads(Path(sys.argv[1]).read_text()):
        for problem in problems(manifest, KINDS[manifest["kind"]], manifest["kind"]):
            print(problem)
