"""Lists the tests that no run carried out; fails where one was skipped for no reason known here.

    python3 .ci/skips.py first.xml second.xml

The files are what `pytest --junit-xml` writes.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree

# How a reason begins that no package would cure.
ALLOWED = (
    "no CUDA device",
    "no network",
    "detectron2 has no release",
    "needs the history",  # a shallow clone lacks it
    "timm's results are not at hand",  # which stand beside the repository
    "needs litert_torch",  # which needs an older torch
    "needs the right to mount a file system",  # the superuser's
)


def main(*paths: str) -> int:
    """Prints each test that is left with its reason; returns the exit code."""
    ran: set[tuple[str, str]] = set()
    reasons: dict[tuple[str, str], str] = {}
    for path in paths:
        cases = list(ElementTree.parse(path).iter("testcase"))
        if not cases:
            raise SystemExit(f"{path} holds no test")
        for case in cases:
            test = (case.get("classname", ""), case.get("name", ""))
            skipped = case.find("skipped")
            if skipped is None:
                ran.add(test)
            else:
                reason = skipped.get("message", "")
                if reason == "collection skipped":  # a whole file; its reason is in the text
                    reason = (skipped.text or "").partition("Skipped: ")[2]
                reasons[test] = reason
    left = {test: reason for test, reason in sorted(reasons.items()) if test not in ran}
    print(f"{len(ran)} tests ran; {len(left)} were skipped wherever they were tried:")
    unknown = 0
    for (file, name), reason in left.items():
        known = reason.startswith(ALLOWED)
        unknown += not known
        print(f"  {'allowed' if known else 'UNKNOWN'}: {file}::{name}: {reason}")
    if unknown:
        print(f"{unknown} of them for no reason that .ci/skips.py knows")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
