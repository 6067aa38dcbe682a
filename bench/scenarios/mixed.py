"""Half of the traffic on each version, from one set of clients."""

from prometheus_client.parser import text_string_to_metric_families

from bench.arena import V2, Arena
from bench.contenders import Poolshift
from bench.outcome import Figure, Outcome
from bench.servers import Server
from bench.workloads import TRIVIAL

MIXED = "Poolshift, 50 % on each"


def run(arena: Arena) -> Outcome:
    """The mixture between all on V1 and all on V2; it has half of the workers for each version."""
    plan = arena.plan
    mixed = Poolshift(MIXED, v1_share=0.5, collector_url=arena.collector_url)
    with arena.running([arena.v1(), mixed, arena.v2()], TRIVIAL, plan.workers) as servers:
        loads = arena.compare_running(servers, TRIVIAL, plan.connections)
        v2_share = _v2_share(servers[MIXED])
    return Outcome(
        scenario="mixed",
        conditions=f"trivial program, {plan.workers} workers in all, {plan.connections} connections",
        loads=loads,
        reference=V2,
        figures=[Figure("calls of the mixture that V2 served", 100 * v2_share, "%")],
    )


def _v2_share(server: Server) -> float:
    served = {"v1": 0.0, "v2": 0.0}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "poolshift_requests_total" and sample.labels["operation"] == "execute":
                served[sample.labels["pool_version"]] += sample.value
    return served["v2"] / sum(served.values())
