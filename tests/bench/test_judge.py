from .judge import judge
from .matrix import QUICK
from .workloads import GARAGEMQ, LEVERET, RABBITMQ, WORKLOADS, Workload

LOAD = Workload("load", "a load", (), cpu=8, rate=5, latency="latency", quantiles=("p99",))


def figures(cpu_us: float, rate: float, p99: float = 1.0, limit: str = "the broker") -> dict:
    return {
        "broker": {"cpu_us": cpu_us},
        "rate": rate,
        "latency_ms": {"p99": p99},
        "limit": limit,
        "verification": {"faultless": True},
    }


def passed(ours: dict, rabbitmq: dict, workload: Workload = LOAD, **others: dict) -> dict:
    bars = judge(workload, {LEVERET: ours, RABBITMQ: rabbitmq, **others})
    return {bar.name: bar.passed for bar in bars}


def test_bars_that_are_just_reached_pass():
    result = passed(figures(1.0, 500), figures(8.0, 100))

    assert {"CPU": True, "rate": True, "latency p99": True} == result


def test_each_bar_is_missed_by_itself():
    rabbitmq = figures(8.0, 100)

    assert passed(figures(1.1, 500), rabbitmq)["CPU"] is False
    assert passed(figures(1.0, 499), rabbitmq)["rate"] is False
    assert passed(figures(1.0, 500, p99=1.1), rabbitmq)["latency p99"] is False


def test_a_rate_below_the_bar_is_undecided_where_the_generator_was_the_limit():
    rabbitmq = figures(8.0, 100)

    assert passed(figures(1.0, 400, limit="the generator"), rabbitmq)["rate"] is None
    assert passed(figures(1.0, 500, limit="the generator"), rabbitmq)["rate"] is True


def test_garagemq_is_a_bar_for_the_cpu():
    ours, rabbitmq = figures(1.0, 500), figures(8.0, 100)

    assert passed(ours, rabbitmq, **{GARAGEMQ: figures(0.9, 1)})["CPU, GarageMQ"] is False
    assert passed(ours, rabbitmq, **{GARAGEMQ: figures(1.1, 1)})["CPU, GarageMQ"] is True


def test_a_fault_or_a_failure_is_a_miss():
    faulty = figures(1.0, 500) | {"verification": {"faultless": False}}

    assert passed(faulty, figures(8.0, 100))["verification"] is False
    assert {"run": False} == passed({"failed": "it died"}, figures(8.0, 100))


def test_memory_and_start_have_bars_of_their_own():
    memory = Workload("idle", "idle", (), kind="idle", memory_kib=20)
    start = Workload("start", "start", (), kind="start", start_ms=300)

    assert {"memory each": True} == passed({"rss_kib_each": 20.0}, {}, memory)
    assert {"memory each": False} == passed({"rss_kib_each": 20.1}, {}, memory)
    assert {"start": False} == passed({"start_ms": 301.0}, {}, start)


def test_what_is_on_disk_has_bars_of_its_own():
    load = Workload("d", "d", (), written=2, latency="latency", limits_ms=(("p99", 15.0),))
    ours = figures(1.0, 500, p99=15.0) | {"written": 2.0}
    over = figures(1.0, 500, p99=15.1) | {"written": 2.1}

    assert {"written per octet": True, "p99 by itself": True} == passed(ours, {}, load)
    assert {"written per octet": False, "p99 by itself": False} == passed(over, {}, load)
    assert passed(figures(1.0, 500), {}, load)["written per octet"] is None


def test_stall_is_undecided_where_the_machine_is_late_itself():
    load = Workload("d", "d", (), stall_ms=20)

    def stall(took: float, late: float) -> bool | None:
        found = {"stall_ms": {"p99.9": took}, "probe_late_ms": {"p99.9": late}}
        return passed(figures(1.0, 500) | found, {}, load)["stall p99.9"]

    assert [True, False, None] == [stall(20, 15), stall(21, 1), stall(21, 11)]


def test_recovery_and_a_long_queue_have_bars():
    recover = Workload("r", "r", (), kind="recover", recovery_s=2)
    paged = Workload("p", "p", (), kind="paged", rss_mib=1024, drain_rate=100_000, file_mib=256)
    good = {"peak_rss_mib": 1024, "drain_rate": 100_000, "file_mib": 256}

    assert {"recovery": True} == passed({"recovery_s": 2.0}, {}, recover)
    assert {"recovery": False} == passed({"recovery_s": 2.1}, {}, recover)
    assert {True} == set(passed(good, {}, paged).values())
    assert {False} == set(
        passed(
            {k: v * (0.9 if k == "drain_rate" else 1.1) for k, v in good.items()}, {}, paged
        ).values()
    )


def test_every_workload_has_a_key_of_its_own_and_a_bar():
    assert len(WORKLOADS) == len({workload.key for workload in WORKLOADS})
    assert all(
        each.cpu or each.memory_kib or each.start_ms or each.stall_ms or each.recovery_s
        for each in WORKLOADS
    )


def test_what_is_shortened_in_a_quick_run_is_there():
    arguments = {argument for workload in WORKLOADS for argument in workload.arguments}

    assert set(QUICK) <= arguments
