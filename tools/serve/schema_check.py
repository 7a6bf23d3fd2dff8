"""``python -m micro_rm.tools.serve.schema_check --examples 100``: fuzz the OpenAPI schema.

schemathesis sends generated valid and invalid requests to every operation, in process and through
the whole application. Responses must conform to the schema and never be a server error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from micro_rm.serve.app import make_app
from micro_rm.tests.serve.fake import make_service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def check(directory: Path, examples: int) -> dict[str, int]:
    """Return the number of requests per operation; raises the failures of schemathesis."""
    service = make_service(directory)
    app = make_app(service)
    schema = openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"})
    counts: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[attr-defined]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            key = f"{operation.label} ({mode.value})"
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                counts[key] = _send(strategy, examples)
            except Unsatisfiable:  # a request without parameters has no invalid form
                counts[key] = 0
    service.close()
    return counts


def _send(strategy: Any, examples: int) -> int:
    count = 0

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
    )
    @given(case=strategy)
    def send(case: Any) -> None:
        nonlocal count
        count += 1
        case.call_and_validate(headers={"host": "localhost"}, checks=CHECKS)

    send()
    return count


def main() -> int:
    """Print the number of requests per operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="micro-rm-schema-") as base:
        for label, count in check(Path(base), options.examples).items():
            print(f"{count:>6}  {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
