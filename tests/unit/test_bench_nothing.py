"""The bench of a run from nothing: what it takes for the cost of batch sizes."""

from types import SimpleNamespace

from msgspec import UNSET

from repro.bench import nothing


def test_timed_executions_and_waiting_for_images_are_no_cost_of_a_run():
    steps = [
        SimpleNamespace(key=key, started_s=started_s, wall_s=wall_s, cached=cached)
        for key, started_s, wall_s, cached in (
            ("a", 10.0, 30.0, False), ("b", 20.0, 10.0, False), ("c", 50.0, 40.0, False), ("d", 0.0, 5.0, True),
        )
    ]  # fmt: skip
    observed = SimpleNamespace(phases=(), layers=(), preparations=(), steps=steps)
    results = [SimpleNamespace(sustained=found) for found in (SimpleNamespace(timed_s=20.0), UNSET)]
    assert nothing.beside_loops_s(SimpleNamespace(observations=observed, results=results)) == 30.0 + 40.0 - 20.0
