"""What a route costs while more and more bindings cannot match; prints microseconds.

python -m tests.bench.bench_routing
"""

from collections.abc import Mapping
from time import perf_counter
from timeit import Timer

from leveret.broker.core.exchange import Exchange, route
from leveret.broker.core.vhost import VirtualHost

from ..core.test_vhost import make_vhost

SIZES = (10, 1_000, 10_000)
ROUNDS = 2_000

# name of the case: exchange type, key and arguments of the binding that matches, then those of
# binding number n that does not, then the key and headers of the message
CASES = {
    "direct": ("direct", "hit", {}, lambda n: (f"miss.{n}", {}), "hit", None),
    "topic, literal": ("topic", "a.hit.b", {}, lambda n: (f"a.miss{n}.b", {}), "a.hit.b", None),
    "topic, *": ("topic", "*.hit.*", {}, lambda n: (f"*.miss{n}.*", {}), "a.hit.b", None),
    "topic, #": ("topic", "#.hit.#", {}, lambda n: (f"#.miss{n}.#", {}), "a.hit.b", None),
    "headers, one value of one": (
        "headers",
        "",
        {"id": -1},
        lambda n: ("", {"id": n}),
        "",
        {"id": -1, "type": "task"},
    ),
    "headers, one value of two": (
        "headers",
        "",
        {"type": "task", "id": -1},
        lambda n: ("", {"type": "task", "id": n}),
        "",
        {"id": -1, "type": "task"},
    ),
    "headers, other names": (
        "headers",
        "",
        {"type": "task", "id": -1},
        lambda n: ("", {"type": "task", f"n{n}": 1}),
        "",
        {"id": -1, "type": "task"},
    ),
    "headers, any": (
        "headers",
        "",
        {"x-match": "any", "id": -1, "b": 1},
        lambda n: ("", {"x-match": "any", "id": n, f"n{n}": 1}),
        "",
        {"id": -1, "type": "task"},
    ),
}


def build(vhost: VirtualHost, case: str, size: int) -> tuple[Exchange, str, Mapping | None]:
    type_name, key, arguments, miss, routing_key, headers = CASES[case]
    exchange = vhost.declare_exchange("x", type_name)
    vhost.bind("x", vhost.declare_queue("hit"), key, arguments)
    missed = vhost.declare_queue("miss")
    for number in range(size):
        vhost.bind("x", missed, *miss(number))
    found = [queue.name for queue in route(exchange, [routing_key], headers).queues]
    assert found == ["hit"], found
    return exchange, routing_key, headers


def measure(case: str, size: int) -> tuple[float, float, float]:
    """Return seconds a route, a bind and an unbind."""
    vhost = make_vhost()
    started = perf_counter()
    exchange, key, headers = build(vhost, case, size)
    bound = perf_counter() - started
    routed = min(Timer(lambda: route(exchange, [key], headers)).repeat(5, ROUNDS))
    started = perf_counter()
    vhost.delete_queue(vhost.queue("miss"))
    return routed / ROUNDS, bound / size, (perf_counter() - started) / size


def main() -> None:
    sizes = "".join(f"{size:>10,}" for size in SIZES)
    print(f"{'µs a route, by bindings':28}{sizes}{'bind':>10}{'unbind':>10}")
    for case in CASES:
        results = [measure(case, size) for size in SIZES]
        columns = [*(result[0] for result in results), *results[-1][1:]]
        print(f"{case:28}" + "".join(f"{column * 1e6:10.2f}" for column in columns))


if __name__ == "__main__":
    main()
