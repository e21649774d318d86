"""Look for known vulnerabilities in what a lock file names.

    python deploy/audit.py deploy/locks/dev.txt

Exit code 1 if there is one with a fix. One without a fix is printed. Where the vulnerability data cannot be reached,
one line says so and the exit code is 0: a build must not depend on the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

SECONDS: Final = 120
"""How long the look-up may take as a whole."""


def report(lock: str) -> list[dict[str, Any]]:
    """What pip-audit finds: one entry for each package it could look up; empty if it reaches nothing."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS, check=False)
        found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return []
    return [package for package in found["dependencies"] if "vulns" in package]


def main(lock: str) -> int:
    """Print what was found in one line each; returns the exit code."""
    packages = report(lock)
    if not packages:
        print("audit: skipped, the vulnerability data cannot be reached from here")
        return 0
    fixable = 0
    for package in packages:
        for vulnerability in package["vulns"]:
            fixes = ", ".join(vulnerability["fix_versions"])
            fixable += bool(fixes)
            fixed = f"fixed in {fixes}" if fixes else "no fix yet"
            print(f"audit: {package['name']} {package['version']}: {vulnerability['id']}, {fixed}")
    print(f"audit: {len(packages)} packages looked up, {fixable} vulnerabilities with a fix")
    return 1 if fixable else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
