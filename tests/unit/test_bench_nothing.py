"""The bench of a run from nothing: what it takes for the cost of batch sizes."""

from types import SimpleNamespace

from msgspec import UNSET

from repro.bench import nothing


def test_timed_executions_are_no_cost_of_a_run():
    phases = [SimpleNamespace(name=name, seconds=seconds) for name, seconds in (("fetch", 9.0), ("stages", 70.0))]
    results = [SimpleNamespace(sustained=found) for found in (SimpleNamespace(timed_s=20.0), UNSET)]
    assert nothing.beside_loops_s(SimpleNamespace(observations=SimpleNamespace(phases=phases), results=results)) == 50.0
