"""`make bench`: every benchmark in turn, on the machine at hand.

    python -m benchmarks [NAME ...]    all without a name:
                                       training, quantized, teachers, policies, scoring, factorizing, photos,
                                       shipping

Absolute times belong to one machine and one moment; what is claimed are ratios of two sides that ran alternately.
"""

import importlib
import sys
import time

NAMES = ("training", "quantized", "teachers", "policies", "scoring", "factorizing", "photos", "shipping")


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    chosen = sys.argv[1:] or list(NAMES)
    for name in chosen:
        if name not in NAMES:
            sys.exit(f"{name}: no such benchmark; there are {', '.join(NAMES)}")
    for name in chosen:
        print(f"== {name}, {time.strftime('%Y-%m-%d')} ==", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        sys.argv = [f"benchmarks.{name}"]
        module.main()
        print()


main()
