"""Convert a model with several processes that know nothing of each other.

What a scheduler does on many machines (docs/encoder.md has it for Slurm), this does on one: write the plan, run a job
for each output file, run the ones that fail again, publish the result.

    python examples/many-jobs/run.py model/ model-ternary/ --processes 4 --max-shard-size 1GB
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CONVERT = (sys.executable, "-m", "ternfmt", "convert")
ATTEMPTS = 3


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("destination")
    parser.add_argument("--processes", type=int, default=4, help="jobs at a time (default: 4)")
    arguments, options = parser.parse_known_args()  # what is left goes to `ternfmt convert`
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        subprocess.run([*CONVERT, "--plan", plan, arguments.source, arguments.destination, *options], check=True)
        with ThreadPoolExecutor(arguments.processes) as pool:
            shards = range(1, arguments.processes + 1)
            list(pool.map(lambda shard: run_shard(plan, shard, arguments.processes), shards))
        subprocess.run([*CONVERT, "--plan", plan, "--finish"], check=True)


def run_shard(plan: Path, shard: int, count: int) -> None:
    """Run one job; again if it fails, which costs only what had not been finished."""
    for _ in range(ATTEMPTS):
        if not subprocess.run([*CONVERT, "--plan", plan, "--shard", f"{shard}/{count}", "--jobs", "1"]).returncode:
            return
    sys.exit(f"shard {shard}/{count} failed {ATTEMPTS} times")


if __name__ == "__main__":
    main()
