"""Time fit + covariance step + tables of each case, cold (new process) and warm (second run in it), and peak memory.

Usage: python benchmarks/run.py [--cases NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def measure(name: str) -> dict:
    """One case in this process: the import, the first run, the second run."""
    began = time.perf_counter()
    sys.path.insert(0, str(Path(__file__).parent))
    from cases import CASES

    import deepnlme as dn

    case = CASES[name]
    imported = time.perf_counter() - began
    population = case.data()
    runs = []
    for _ in range(2):
        began = time.perf_counter()
        fit = dn.fit(case.model(), population, dn.FOCE(), options=dn.Options(progress=False))
        text, table = str(fit), fit.predictions()
        runs.append(time.perf_counter() - began)
    return {
        "case": name,
        "subjects": len(population),
        "observations": len(table),
        "import_s": imported,
        "cold_s": runs[0],
        "warm_s": runs[1],
        "stages_s": fit.seconds,
        "ms_per_subject": 1e3 * runs[1] / len(population),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "nlmixr2_s": case.nlmixr2,
        "ratio": None if case.nlmixr2 is None else runs[1] / case.nlmixr2,
        "ofv": fit.ofv,
        "status": fit.status.value,
        "converged": fit.converged,
        "iterations": len(fit.trace.ofv),
        "estimates": fit.estimates,
        "covariance_ok": bool(fit.covariance and fit.covariance.ok),
        "table_characters": len(text),
    }


def main() -> None:
    """Run every case in a process of its own and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", help="names of cases (default: all)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from cases import CASES

    results = []
    head = f"{'case':22}{'subjects':>9}{'obs':>8}{'cold s':>9}{'warm s':>9}{'nlmixr2 s':>11}{'ratio':>7}{'MB':>7}  OFV"
    print(head)
    for name in arguments.cases or CASES:
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:22}failed: {done.stderr.strip().splitlines()[-1]}")
            continue
        r = json.loads(done.stdout.strip().splitlines()[-1])
        results.append(r)
        reference = "" if r["nlmixr2_s"] is None else f"{r['nlmixr2_s']:.2f}"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(
            f"{name:22}{r['subjects']:>9}{r['observations']:>8}{r['cold_s']:>9.2f}{r['warm_s']:>9.2f}{reference:>11}{ratio:>7}"
            f"{r['peak_MB']:>7.0f}  {r['ofv']:.4f} ({r['status']})",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
