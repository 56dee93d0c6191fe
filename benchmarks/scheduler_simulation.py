"""Traces through admission and scheduler with a made-up clock: overload, preemption, shares.

    python benchmarks/scheduler_simulation.py

Nothing depends on the machine: the figures are the same everywhere. Sizes and step times are those of
`kvasir.testing.simulation.Machine` with 1024 KV blocks of 16 and 64 requests at a time.
"""

from kvasir.engine.admission import AdmissionLimits
from kvasir.testing.simulation import Simulation, jain
from tests.scheduler.test_fair_share import crowd, run, service
from tests.scheduler.traces import MACHINE, chat

NO = 1 << 40


def main() -> None:
    print("three times the load it can carry, for 60 s:")
    print(f"  {'bound':<28} {'refused':>8} {'p50 s':>7} {'p99 s':>7} {'tok/s':>7} {'twice':>6}")
    for name, limits in (
        ("none", None),
        ("128 requests", AdmissionLimits(128, NO)),
        ("20,000 waiting tokens", AdmissionLimits(NO, 20_000)),
        ("5 s of expected wait", AdmissionLimits(NO, NO, 5.0)),
    ):
        r = Simulation(chat(24, 60), MACHINE, limits=limits).run()
        print(
            f"  {name:<28} {r.refused_share:>8.0%} {r.ttft(0.5):>7.1f} {r.ttft(0.99):>7.1f} {r.output_per_s:>7.0f} "
            f"{r.wasted_share:>6.1%}"
        )
    print("forecast of KV growth, off and on:")
    print(f"  {'trace':<28} {'preempted':>12} {'twice':>14} {'tok/s':>13}")
    for name, trace in (
        ("chat", chat(10, 60)),
        ("long answers", chat(6, 60, prompt=(20, 200), mean_output=500, max_tokens=2048)),
        ("short answers", chat(20, 60, prompt=(200, 1500), mean_output=40, max_tokens=512)),
    ):
        off, on = (Simulation(trace, MACHINE, forecast=f).run() for f in (False, True))
        print(
            f"  {name:<28} {off.num_preempted:>5} {on.num_preempted:>6} {off.wasted_share:>7.1%} "
            f"{on.wasted_share:>6.1%} {off.output_per_s:>6.0f} {on.output_per_s:>6.0f}"
        )
    print("four callers, one of whom sends ten times as much; Jain's index of what they got:")
    for policy in ("fcfs", "fair"):
        print(f"  {policy:<28} {jain(service(run(policy, *crowd())).values()):.3f}")


if __name__ == "__main__":
    main()
