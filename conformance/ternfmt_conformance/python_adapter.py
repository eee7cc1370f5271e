"""Put a Python implementation behind the adapter protocol: ``python -m ternfmt_conformance.python_adapter NAME``.

NAME is ``module:object``; the object, or an instance of it where it is a class, has

- ``implementation``: a dict with ``name``, ``version`` and ``language``,
- ``levels`` and ``features``: what it claims,
- a method for each operation of PROTOCOL.md, called with the request's keys as keyword arguments. Counts arrive
  as int, ``rows`` as a pair of them. ``describe`` returns the list of tensors, the other methods nothing.

A method that is missing, or raises `NotImplementedError`, answers ``skipped``; one that raises `Rejected` answers
with its class; any other exception answers ``errored``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import IO, Any

PROTOCOL = 1


class Rejected(Exception):
    """The file is not valid.

    Attributes:
        kind: the error class of SPEC section 10.
        detail: for people.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


def load(name: str) -> Any:
    """The object that ``module:object`` names, instantiated if it is a class.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, path = name.partition(":")
    found = reduce(getattr, path.split("."), importlib.import_module(module))
    return found() if isinstance(found, type) else found


def answer(implementation: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    op = request["op"]
    if op == "stop":
        return {"ok": True}
    if op == "start":
        return _greeting(implementation, request)
    method = getattr(implementation, op, None)
    if method is None:
        return {"skipped": True, "reason": f"{op} is not implemented"}
    try:
        tensors = method(**_arguments(request))
    except Rejected as rejected:
        return {"ok": False, "error": {"class": rejected.kind, "detail": rejected.detail}}
    except NotImplementedError as error:
        return {"skipped": True, "reason": str(error) or f"{op} is not implemented"}
    except Exception:
        return {"errored": True, "detail": traceback.format_exc()}
    return {"ok": True, "tensors": tensors} if op == "describe" else {"ok": True}


def serve(implementation: Any, requests: Iterable[bytes], answers: IO[bytes]) -> None:
    """Answer requests, one a line, until stop or the end of input."""
    for line in requests:
        request = json.loads(line)
        value = {"id": request["id"], **answer(implementation, request)}
        answers.write(json.dumps(value).encode("ascii") + b"\n")
        answers.flush()
        if request["op"] == "stop":
            return


def one_shot(implementation: Any, path: str) -> int:
    """Validate a path, print the error class; the exit code."""
    value = answer(implementation, {"op": "validate", "path": path, "read_as": "auto", "digests": False,
                                    "strict_links": False})  # fmt: skip
    if value.get("ok") is True:
        return 0
    if "error" in value:
        print(value["error"]["class"], value["error"]["detail"], sep="\n")
        return 1
    print(value.get("detail") or value.get("reason"), file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the implementation that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) not in (1, 3) or ":" not in arguments[0] or arguments[1:2] not in ([], ["validate"]):
        print("usage: python -m ternfmt_conformance.python_adapter MODULE:OBJECT [validate PATH]", file=sys.stderr)
        return 2
    implementation = load(arguments[0])
    if len(arguments) == 3:
        return one_shot(implementation, arguments[2])
    # Whatever the implementation prints goes to standard error, not between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(implementation, sys.stdin.buffer, answers)
    return 0


def _greeting(implementation: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    if request.get("protocol") != PROTOCOL:
        return {"errored": True, "detail": f"this adapter speaks protocol {PROTOCOL}, not {request.get('protocol')}"}
    return {
        "protocol": PROTOCOL,
        "implementation": dict(implementation.implementation),
        "levels": list(implementation.levels),
        "features": list(implementation.features),
    }


def _arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {key: value for key, value in request.items() if key not in ("id", "op")}
    if "rows" in arguments:
        arguments["rows"] = tuple(map(int, arguments["rows"]))
    if "m" in arguments:
        arguments["m"] = int(arguments["m"])
    return arguments


if __name__ == "__main__":
    # As `ternfmt_conformance.python_adapter`, not as `__main__`: implementations raise that module's `Rejected`.
    from ternfmt_conformance import python_adapter

    sys.exit(python_adapter.main())
