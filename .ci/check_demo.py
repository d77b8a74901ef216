"""Asserts what the demo must show: `python .ci/check_demo.py [COMPARE.JSON]`.

Updates, accuracies and keys are asserted; seconds belong to the machine and are only reported. Prints one line per
check and a closing line `N passed, N failed`; exit code 1 if any failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adabatch.study import claims

SMALL_ACCURACY = 0.965


def main() -> int:
    """Reads the comparison and checks it."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/compare.json")
    compare = json.loads(path.read_text())
    missing = claims.missing_keys(compare)
    checks = [claims.Claim("every key is present", f"missing: {', '.join(missing)}" if missing else "all", not missing)]
    if not missing:
        arms = {arm["name"]: arm for arm in compare["arms"]}
        small = arms["fixed-small"]["test_accuracy"]
        checks += claims.check(compare)
        checks.append(
            claims.Claim(
                f"fixed-small is no straw man: at least {100 * SMALL_ACCURACY:g} % test accuracy",
                f"{100 * small['mean']:.2f} %",
                small["mean"] >= SMALL_ACCURACY,
            )
        )
        for name, against in compare["against_fixed_small"].items():
            ratio = against["seconds_ratio"]
            print(f"reported: {name} takes {ratio['median']:.2f}x less time than fixed-small", end="")
            print("" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    for claim in checks:
        print(claim)
    failed = sum(not claim.holds for claim in checks)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
