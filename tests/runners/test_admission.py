"""Admission by time, in simulations whose clock is their own: what queueing theory and plain sums say must come out."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from runners.admission import LONGEST_RETRY_S, Backlog, ServiceTime, Turn, Work, asked_by, total

ONE = Work()


@dataclass
class Client:
    """One who sends a single piece of work, and comes back when it is told to.

    One who does not do as it is told comes back after a time of its own, or never. Before `never_stops_before_s` one
    who was served sends the next at once.
    """

    work: Work = ONE
    is_obedient: bool = True
    again_after_s: float | None = None
    never_stops_before_s: float = 0.0
    came_at: float = 0.0
    tries: int = 0
    waited_s: float | None = None
    told: list[int] = field(default_factory=list)


@dataclass
class Station:
    """A queue before `lanes`, each of which takes one piece of work at a time, for as long as `takes_s` says."""

    lanes: int
    limit_s: float
    takes_s: Callable[[Work], float]
    knows_clients: bool = False
    now: float = 0.0
    refused: int = 0
    promises: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backlog = Backlog(self.lanes, self.limit_s, lambda: self.now)
        self._events, self._numbers = list[tuple[float, int, Callable[[], None]]](), itertools.count()
        self._queue, self._idle = deque[Client](), self.lanes
        self.started = list[Client]()

    def learn(self) -> None:
        """Measure what one piece of work takes, as the self-check does."""
        self.backlog.measured(Work(), self.takes_s(Work()), is_crowded=True)

    def at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happens))

    def run(self) -> None:
        while self._events:
            self.now, _, happens = heapq.heappop(self._events)
            happens()

    def send(self, client: Client, when: float) -> None:
        def come() -> None:
            client.tries, client.came_at = client.tries + 1, self.now
            asked_by.set(id(client) if self.knows_clients else None)
            if wait_s := self.backlog.wait_for_room(client.work, 1, None, self.now):
                self.refused += 1
                self.promises.append(self.backlog.retry_after_s(client.work, wait_s))
                client.told.append(self.promises[-1])
                if client.is_obedient:
                    self.send(client, self.now + self.promises[-1])
                elif client.again_after_s is not None:
                    self.send(client, self.now + client.again_after_s)
                return
            self.backlog.add(client.work)
            self._queue.append(client)
            self._start()

        self.at(when, come)

    def _start(self) -> None:
        while self._idle and self._queue:
            client = self._queue.popleft()
            client.waited_s = self.now - client.came_at
            self.started.append(client)
            self._idle -= 1
            turn = self.backlog.begin(client.work)
            self.at(self.now + self.takes_s(client.work), lambda turn=turn, client=client: self._end(turn, client))  # type: ignore[misc]

    def _end(self, turn: Turn, client: Client) -> None:
        self.backlog.end(turn, turn.work)
        if self.now < client.never_stops_before_s:
            self.send(client, self.now)
        self._idle += 1
        self._start()


def poisson(rate: float, until_s: float, seed: int) -> Iterator[float]:
    """Yield the times of random arrivals."""
    source, now = random.Random(seed), 0.0
    while (now := now + source.expovariate(rate)) < until_s:
        yield now


@pytest.mark.parametrize(("lanes", "overload"), [(1, 1.5), (2, 3.0), (4, 10.0)])
def test_under_overload_the_wait_is_bounded_and_as_many_are_refused_as_must_be(lanes: int, overload: float) -> None:
    item_s, limit_s, until_s = 0.04, 2.0, 300.0 / overload
    station = Station(lanes, limit_s, lambda work: item_s)
    station.learn()
    clients = list[Client]()
    for when in poisson(overload * lanes / item_s, until_s, seed=1):
        clients.append(Client(is_obedient=False))
        station.send(clients[-1], when)
    station.run()
    accepted = [client for client in clients if client.waited_s is not None]
    waits = sorted(client.waited_s or 0.0 for client in accepted)
    assert waits[-1] <= limit_s + item_s
    assert waits[len(waits) // 2] > 0.9 * limit_s  # the queue is not refused before it is full
    # What is served is the capacity, and the full queue that is left at the end.
    served = (until_s + limit_s) * lanes / item_s
    assert station.refused / len(clients) == pytest.approx(1 - served / len(clients), abs=0.01)
    assert [client.came_at for client in station.started] == sorted(client.came_at for client in accepted)


def test_below_the_capacity_nobody_is_refused() -> None:
    station = Station(2, 2.0, lambda work: 0.04)
    station.learn()
    clients = [Client() for _ in range(5000)]
    for client, when in zip(clients, poisson(0.9 * 2 / 0.04, 1e9, seed=2), strict=False):
        station.send(client, when)
    station.run()
    assert station.refused == 0
    # The mean wait of M/D/2 at 90 % of its capacity, by Cosmetatos' approximation.
    rho, lanes, item_s = 0.9, 2, 0.04
    erlang_c = (2 * rho) ** 2 / (2 * (1 - rho)) / (1 + 2 * rho + (2 * rho) ** 2 / (2 * (1 - rho)))
    exponential_s = erlang_c * item_s / (lanes * (1 - rho))
    deterministic_s = (
        exponential_s / 2 * (1 + (1 - rho) * (lanes - 1) * (math.sqrt(4 + 5 * lanes) - 2) / (16 * rho * lanes))
    )
    mean_s = sum(client.waited_s or 0.0 for client in clients) / len(clients)
    assert mean_s == pytest.approx(deterministic_s, rel=0.25)


def test_at_seven_tenths_of_its_rate_a_cheap_model_refuses_nobody_although_a_lane_is_held_up() -> None:
    item_s, hiccup_s = 0.0004, 1.5
    station = Station(1, 2.0, lambda work: hiccup_s if 1.0 < station.now < 1.0005 else item_s)
    station.learn()
    clients = [Client() for when in range(14_000)]
    for client, when in zip(clients, poisson(0.7 / item_s, 1e9, seed=6), strict=False):
        station.send(client, when)
    station.run()
    waits = sorted(client.waited_s or 0.0 for client in clients)
    assert station.refused == 0 and hiccup_s - 0.1 < waits[-1] < 2.0


def test_a_burst_of_as_much_work_as_the_limit_passes_and_the_next_is_told_when_to_come() -> None:
    station = Station(2, 2.0, lambda work: 0.04)
    station.learn()
    clients = [Client() for _ in range(103)]
    for client in clients:
        station.send(client, 10.0)
    station.run()
    # A hundred before it take two lanes of 0.04 s each 2 s, which is still allowed.
    assert [client.tries for client in clients] == [1] * 101 + [2] * 2
    assert station.promises == [1, 1]


@pytest.mark.parametrize(("limit_s", "count"), [(2.0, 1200), (1.0, 1200), (0.5, 600), (0.2, 250), (0.001, 25)])
def test_all_of_a_crowd_who_come_back_when_they_were_told_are_served(limit_s: float, count: int) -> None:
    station = Station(2, limit_s, lambda work: 0.04)
    station.learn()
    clients = [Client() for _ in range(count)]
    for client in clients:
        station.send(client, 5.0)
    station.run()
    assert station.refused > 0
    assert max(client.tries for client in clients) == 2
    assert all(client.waited_s is not None and client.waited_s <= limit_s + 0.04 for client in clients)


def test_those_who_come_back_are_served_although_others_come_all_the_time() -> None:
    station = Station(2, 2.0, lambda work: 0.04)
    station.learn()
    clients = [Client() for _ in range(1500)]  # 30 s of work that comes within 20 s
    for number, client in enumerate(clients):
        station.send(client, 20.0 * number / len(clients))
    station.run()
    tries = sorted(client.tries for client in clients)
    assert station.refused > 0 and all(client.waited_s is not None for client in clients)
    assert tries[-1] <= 10 and tries[int(0.9 * len(tries))] <= 4
    assert station.now <= 1.3 * 30.0  # the lanes were hardly idle while clients were away


@pytest.mark.parametrize("again_after_s", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("limit_s", [2.0, 0.5])
def test_in_a_crowd_of_which_half_do_not_do_as_they_are_told_the_others_are_served_when_they_come_back(
    limit_s: float, again_after_s: float
) -> None:
    item_s, lanes, count = 0.04, 2, 600  # 12 s of work
    station = Station(lanes, limit_s, lambda work: item_s, knows_clients=True)
    station.learn()
    clients = [Client(is_obedient=number % 2 == 0, again_after_s=again_after_s) for number in range(count)]
    for number, client in enumerate(clients):
        station.send(client, 5.0 + 1e-6 * number)
    station.run()
    assert all(client.waited_s is not None for client in clients)
    obedient = [client for client in clients if client.is_obedient]
    # A place that was given back is given to another, who may come up to a second after it, in whole seconds.
    assert max(client.tries for client in obedient) <= (2 if limit_s > 1 else 3)
    assert max(client.waited_s or 0.0 for client in clients) <= limit_s + item_s
    # Nobody is told to wait for longer than all of this work takes, however often others come.
    assert max(station.promises) <= 1.25 * item_s / lanes * count / min(1.0, limit_s) + 1
    # The lanes are hardly idle, unless those who come at the same whole second are less than a second of work.
    assert station.now - 5.0 <= 1.3 * item_s / lanes * count / min(1.0, limit_s)


def test_those_who_do_as_they_are_told_are_served_beside_some_who_never_stop() -> None:
    item_s, lanes, until_s = 0.04, 2, 120.0
    station = Station(lanes, 2.0, lambda work: item_s, knows_clients=True)
    station.learn()
    for number in range(150):
        greedy = Client(is_obedient=False, again_after_s=0.05, never_stops_before_s=until_s)
        station.send(greedy, 0.0003 * number)
    obedient = list[Client]()
    for when in poisson(0.4 * lanes / item_s, until_s, seed=5):
        obedient.append(Client())
        station.send(obedient[-1], when)
    station.run()
    assert station.refused > 100_000
    assert all(client.waited_s is not None and client.waited_s <= 2.0 + item_s for client in obedient)
    tries = sorted(client.tries for client in obedient)
    assert tries[-1] <= 3 and tries[len(tries) // 2] <= 2
    # Outside are at most 150 who never stop, and those who came while these were served.
    assert max(told for client in obedient for told in client.told) <= 12


def test_nobody_is_sent_away_for_longer_than_anybody_waits() -> None:
    station = Station(1, 1.0, lambda work: 0.5)
    station.learn()
    for _ in range(500):
        station.send(Client(is_obedient=False), 0.0)
    station.run()
    assert max(station.promises) == LONGEST_RETRY_S
    station.send(Client(is_obedient=False), station.now + 1.0)  # all is quiet: the promises are forgotten
    for _ in range(4):
        station.send(Client(is_obedient=False), station.now + 1.0)
    station.promises.clear()
    station.run()
    assert station.promises[0] <= 2


def test_before_anything_was_measured_nothing_is_refused() -> None:
    backlog = Backlog(1, 0.001, lambda: 0.0)
    for _ in range(1000):
        backlog.add(Work())
    assert backlog.wait_for_room(Work(), 1, 0.5, 0.0) == 0.0 and backlog.seconds() == 0.0


def test_only_what_is_ahead_counts_against_the_limit_and_own_work_against_the_deadline() -> None:
    backlog = Backlog(2, 2.0, lambda: 100.0)
    backlog.measured(Work(), 0.1, is_crowded=True)
    batch = Work(1000)  # 50 s of work for two lanes
    assert backlog.wait_for_room(batch, 1000, None, 100.0) == 0.0
    assert backlog.wait_for_room(batch, 1000, 101.0, 100.0) == 0.0  # nothing is ahead: the lanes tell
    backlog.add(Work(20))  # one second
    assert backlog.wait_for_room(batch, 1000, None, 100.0) == 0.0
    assert backlog.wait_for_room(batch, 1000, 151.1, 100.0) == 0.0
    assert backlog.wait_for_room(batch, 1000, 150.9, 100.0) == pytest.approx(0.1)
    assert backlog.wait_for_room(Work(), 1, 101.2, 100.0) == 0.0  # a lone item has one lane: 1 s and 0.1 s
    assert backlog.wait_for_room(Work(), 1, 101.05, 100.0) == pytest.approx(0.05)
    backlog.add(Work(30))
    assert backlog.wait_for_room(Work(), 1, None, 100.0) == pytest.approx(0.5)
    backlog.remove(Work(10))
    assert backlog.wait_for_room(Work(), 1, None, 100.0) == 0.0


def test_what_a_lane_has_done_of_its_turn_is_not_waited_for() -> None:
    now = 0.0
    backlog = Backlog(1, 2.0, lambda: now)
    backlog.measured(Work(), 3.0, is_crowded=True)
    backlog.add(Work())
    turn = backlog.begin(Work())
    assert backlog.is_full() and backlog.wait_for_room(Work(), 1, None, now) == pytest.approx(1.0)
    now = 1.5
    assert backlog.seconds() == pytest.approx(1.5)
    assert not backlog.is_full() and backlog.wait_for_room(Work(), 1, None, now) == 0.0
    now = 60.0  # it is stuck
    assert backlog.seconds() == 0.0
    backlog.end(turn, Work(0))
    assert backlog.seconds() == 0.0


def test_what_would_be_late_keeps_nobody_else_away_for_longer() -> None:
    backlog = Backlog(1, 2.0, lambda: 0.0)
    backlog.measured(Work(), 0.5, is_crowded=True)
    backlog.add(Work(4))  # as much as may wait
    batch = Work(64)  # 32 s
    assert backlog.retry_after_s(batch, backlog.wait_for_room(batch, 64, 33.0, 0.0)) == 1
    backlog.add(Work())
    assert backlog.retry_after_s(Work(), backlog.wait_for_room(Work(), 1, None, 0.0)) == 2  # 0.5 s, and its own 0.625


def test_nobody_waits_while_a_lane_is_free() -> None:
    backlog = Backlog(2, 2.0, lambda: 0.0)
    backlog.measured(Work(), 10.0, is_crowded=True)
    for _ in range(2):
        assert backlog.wait_for_room(Work(), 1, 1.0, 0.0) == 0.0 and not backlog.is_full()
        backlog.add(Work())
        backlog.begin(Work())
    assert backlog.wait_for_room(Work(), 1, None, 0.0) == pytest.approx(8.0)


def test_a_lane_that_was_alone_tells_nothing_once_all_were_at_work() -> None:
    backlog = Backlog(2, 2.0, lambda: 0.0)
    backlog.add(Work(10))
    backlog.measured(Work(), 0.3, is_crowded=False)
    assert backlog.seconds() == pytest.approx(1.5)
    backlog.measured(Work(), 0.1, is_crowded=True)
    backlog.measured(Work(), 0.3, is_crowded=False)
    assert backlog.seconds() == pytest.approx(0.5)


def test_the_parts_of_a_service_time_are_told_apart() -> None:
    source, service = random.Random(3), ServiceTime()
    for _ in range(300):
        turn = total(Work(1, source.choice((1, 2, 1000))) for _ in range(source.randint(1, 8)))
        service.add(turn, (200e-6 * turn.items + 5e-6 * turn.size) * source.uniform(0.8, 1.2))
    assert service.of(Work(1, 1)) == pytest.approx(205e-6, rel=0.1)
    assert service.of(Work(1, 1000)) == pytest.approx(5.2e-3, rel=0.1)


def test_sizes_that_are_all_alike_are_no_reason_for_the_time() -> None:
    source, service = random.Random(4), ServiceTime()
    for _ in range(300):
        service.add(Work(1, 20_000 + source.randint(-500, 500)), 0.04 * source.uniform(0.9, 1.1))
    assert service.of(Work(1, 20_000)) == pytest.approx(0.04, rel=0.05)
    assert service.of(Work(1, 8_000_000)) == pytest.approx(0.04, rel=0.05)


def test_the_first_large_item_is_enough_to_know_the_next() -> None:
    service = ServiceTime()
    for _ in range(100):
        service.add(Work(1, 1), 0.001)
    service.add(Work(1, 500), 0.050)
    assert service.of(Work(1, 500)) == pytest.approx(0.050, rel=0.2)
    assert service.of(Work(1, 1)) == pytest.approx(0.001, rel=0.2)


def test_a_hiccup_hardly_counts_and_a_lasting_change_is_learnt() -> None:
    service = ServiceTime()
    for _ in range(100):
        service.add(Work(), 0.001)
    service.add(Work(), 1.0)
    assert service.of(Work()) == pytest.approx(0.001, rel=0.1)
    for _ in range(64):
        service.add(Work(), 0.002)
    assert service.of(Work()) == pytest.approx(0.002, rel=0.2)
    for _ in range(64):
        service.add(Work(), 0.001)
    assert service.of(Work()) == pytest.approx(0.001, rel=0.2)


def test_a_batch_costs_what_each_item_adds_to_it() -> None:
    backlog = Backlog(1, 2.0, lambda: 0.0)
    for _ in range(100):
        backlog.measured(Work(32), 0.032, is_crowded=True)
    backlog.add(Work(500))
    assert backlog.seconds() == pytest.approx(0.5, rel=0.01)
