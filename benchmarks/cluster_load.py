"""Hold what a cluster promises against what its clients see: python benchmarks/cluster_load.py

Three server processes, sixty clients, twenty rooms; every message is numbered by its
sender. Processes are killed, stopped and suspended, the server that they share hangs, is
cut off, comes back empty, older, or is replaced. What each client was told is held
against what was said; see tests/servers/cluster_model.py for what is promised.
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))

import cluster_load  # the tests have it, too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=cluster_load.GROUNDS, default="redis")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=180, help="how long there are faults")
    parser.add_argument("--faults", type=int, default=1, help="how many there are at least")
    parser.add_argument("--logs", type=Path, help="a folder for what the processes log")
    asked = parser.parse_args()
    print(f"{asked.backend}, seed {asked.seed}, {asked.seconds:.0f} s", flush=True)
    outcome = asyncio.run(cluster_load.run(asked.backend, asked.seed, asked.seconds, asked.faults))
    if asked.logs is not None:
        asked.logs.mkdir(parents=True, exist_ok=True)
        for name, log in outcome.logs.items():
            (asked.logs / f"{name}.log").write_text(log)
    if outcome.violations:
        print(*outcome.violations, *outcome.story, sep="\n")
    print(outcome)
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
