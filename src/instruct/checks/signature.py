"""Identifies the rules and checks of an accuracy, so that it is compared only with accuracies of the same kind."""

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from instruct.checks.schema import Check
from instruct.core.files import read_text

RULE = ("claims.py", "number_rule.py", "numbers.py", "rules.py", "units.py", "words.py")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def accuracy_signature(checks: Mapping[str, Check]) -> str:
    """The digests of the rules' code and of these records' checks, regardless of their order."""
    spelled = json.dumps({id_: asdict(check) for id_, check in checks.items()}, sort_keys=True)
    rule = "\n".join(code_of(read_text(Path(__file__).with_name(name))) for name in RULE)
    return f"rule:{_digest(rule)}|checks:{_digest(spelled)}"


def code_of(source: str) -> str:
    """The code of a module without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
