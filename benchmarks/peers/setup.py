"""An environment for each peer, with exact versions: HOME/bench/envs/NAME.

    python -m benchmarks.peers.setup [NAME …]

`requirements/NAME.in` says what a peer needs, `requirements/NAME.txt` what that came to; `--lock` resolves anew.
Nothing is downloaded that uv has in its cache, and files are linked from there, not copied.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.settings import load_settings

PEERS = ("fastapi", "mlflow", "mlserver", "litserve", "bentoml", "ray")
PYTHON = "3.11"
REQUIREMENTS = Path(__file__).parent / "requirements"


def environment(name: str) -> Path:
    """The folder of a peer's environment; it may not be there."""
    return load_settings().home / "bench" / "envs" / name


def built(name: str) -> bool:
    """Whether the environment is there, with the versions that are asked for now."""
    stamp = environment(name) / "requirements.txt"
    return stamp.is_file() and stamp.read_bytes() == (REQUIREMENTS / f"{name}.txt").read_bytes()


def build(name: str, *, uv: str) -> str | None:
    """Make or mend one environment; gives why it could not be, in uv's last words."""
    folder, wanted = environment(name), REQUIREMENTS / f"{name}.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    commands = [
        [uv, "venv", "--quiet", "--python", PYTHON, "--allow-existing", str(folder)],
        [uv, "pip", "sync", "--quiet", "--python", str(folder / "bin" / "python"), str(wanted)],
    ]
    for command in commands:
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            return " ".join(done.stderr.split())[-400:]
    shutil.copy(wanted, folder / "requirements.txt")
    return None


def lock(name: str, *, uv: str) -> None:
    """Resolve `NAME.in` anew into `NAME.txt`."""
    asked, wanted = REQUIREMENTS / f"{name}.in", REQUIREMENTS / f"{name}.txt"
    command = [uv, "pip", "compile", "--quiet", "--upgrade", "--python-version", PYTHON, "--no-header",
               "--no-annotate", str(asked), "--output-file", str(wanted)]  # fmt: skip
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Environments for the peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--lock", action="store_true", help="resolve the requirements anew first")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in PEERS]:
        parser.error(f"{unknown[0]!r}: peers are {', '.join(PEERS)}")
    uv = shutil.which("uv")
    if uv is None:
        parser.error("uv is not on the path; `pip install uv` brings it")
    failed = 0
    for name in given.names or PEERS:
        if given.lock:
            lock(name, uv=uv)
        if built(name):
            print(f"{name}: is there")
            continue
        why = build(name, uv=uv)
        failed += why is not None
        print(f"{name}: {why or 'built'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
