"""Several equal boards that share the work."""

import threading
import time
from dataclasses import replace
from itertools import islice

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.open_runner import RunnerPool, open_runner
from nasdeploy.latency.runners.runner import Refusal
from tests.latency.runners.boards import HASTY, MODELS, device, measured
from tests.latency.tables import FINGERPRINT, timing

KEYS = [f"k{number}" for number in range(20)]


class Board:
    """A board that takes `speed` ms for a model, and is lost after so many models."""

    def __init__(self, speed=1.0, lost_after=10**6, fingerprint=FINGERPRINT):
        self.speed, self.left, self.fingerprint = speed, lost_after, fingerprint
        self.groups, self.asked = [], []
        self.closed = False

    def measure(self, models, rounds, protocol, *, on_visits, reference=None):
        self.asked.append((rounds, reference))
        remaining = iter(models.items())
        while group := dict(islice(remaining, rounds.group)):
            self.groups.append(list(group))
            for key, model in group.items():
                if self.left == 0:
                    raise UserError("ssh://lost: given up")
                self.left -= 1
                content = model()
                time.sleep(0.001)
                on_visits(rounds.visits)
                yield {key: Refusal("no") if content == b"refused" else timing(1e-3 * self.speed)}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


def run(boards, models=None, say=lambda text: None, rounds=Rounds(4, 3), visits=None):
    pool = RunnerPool({f"ssh://{number}": board for number, board in enumerate(boards)}, say)
    chosen = models or {key: lambda: b"model" for key in KEYS}
    found = [
        *pool.measure(chosen, rounds, MeasurementProtocol(), on_visits=(visits if visits is not None else []).append)
    ]
    keys = [key for some in found for key in some]
    assert len(keys) == len(set(keys))
    return {key: outcome for some in found for key, outcome in some.items()}


def test_every_model_is_measured_once_in_the_groups_of_one_board():
    boards, visits = [Board(), Board(), Board()], []
    assert run(boards, visits=visits).keys() == set(KEYS)
    assert sum(visits) == 3 * len(KEYS)
    groups = [group for board in boards for group in board.groups[1:]]
    assert sorted(groups) == sorted(KEYS[start : start + 4] for start in range(0, 20, 4))
    assert all(len(board.groups) > 1 for board in boards)


def test_gaps_and_the_reference_reach_every_board():
    boards, paused = [Board(), Board()], Rounds(4, 3, idle_s=0.01)
    pool = RunnerPool({f"ssh://{number}": board for number, board in enumerate(boards)}, lambda text: None)
    models = {key: lambda: b"model" for key in KEYS}
    asked = pool.measure(models, paused, MeasurementProtocol(), on_visits=lambda made: None, reference=lambda: b"graph")
    assert {key for some in asked for key in some} == set(KEYS)
    for board in boards:
        assert {(rounds.idle_s, reference()) for rounds, reference in board.asked[1:]} == {(0.01, b"graph")}
        assert max(len(group) for group in board.groups[1:]) == 3


def test_all_boards_measure_the_same_models_first():
    boards = [Board(), Board()]
    run(boards)
    assert boards[0].groups[0] == boards[1].groups[0] == ["k0", "k5", "k10", "k14", "k19"]


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_board_of_another_speed_is_refused(speed):
    with pytest.raises(UserError) as caught:
        run([Board(), Board(1.02), Board(speed)])
    assert str(caught.value) == (
        f"ssh://2: takes {speed} times as long as ssh://0; boards that share a table have to be equal, so check "
        "cooling, power mode and what else runs, or leave it out of hosts"
    )


def test_a_board_of_another_kind_is_refused():
    with pytest.raises(UserError) as caught:
        run([Board(), Board(fingerprint=replace(FINGERPRINT, governor="powersave"))])
    assert str(caught.value) == (
        "ssh://1: another board than ssh://0 (governor: measured with performance, here powersave); boards that share "
        "a table have to be equal, leave it out of hosts"
    )


def test_a_board_that_is_lost_leaves_its_group_to_the_others():
    boards, said = [Board(), Board(lost_after=7)], []
    assert run(boards, say=said.append).keys() == set(KEYS)
    assert said == ["ssh://lost: given up (the other boards go on)"]
    assert [board.closed for board in boards] == [False, True]


def test_when_all_are_lost_the_last_one_says_why():
    with pytest.raises(UserError, match="ssh://lost: given up"):
        run([Board(lost_after=7), Board(lost_after=6)])


def test_a_mistake_of_this_process_is_not_blamed_on_a_board():
    made = []

    def broken():
        made.append(True)
        if len(made) > 2:
            raise ZeroDivisionError
        return b"model"

    with pytest.raises(ZeroDivisionError):
        run([Board(), Board()], {**{key: lambda: b"model" for key in KEYS}, "k0": broken})


def test_models_are_made_one_at_a_time():
    making, most = [], []
    lock = threading.Lock()

    def make():
        with lock:
            making.append(True)
            most.append(len(making))
        time.sleep(0.002)
        with lock:
            making.pop()
        return b"model"

    run([Board(), Board(), Board()], dict.fromkeys(KEYS, make))
    assert max(most) == 1


def test_refused_models_are_not_compared():
    found = run([Board(), Board()], dict.fromkeys(KEYS, lambda: b"refused"))
    assert set(found.values()) == {Refusal("no")}


def test_two_servers_share_the_work(server, own_server, monkeypatch):
    monkeypatch.setattr(RunnerPool.__init__, "__defaults__", (100.0, HASTY))
    own_server.start()
    for name in ("id_ed25519", "id_ed25519.pub"):
        (own_server.ssh / name).write_bytes((server.ssh / name).read_bytes())
    (own_server.folder / "authorized_keys").write_bytes((server.folder / "authorized_keys").read_bytes())
    (own_server.ssh / "known_hosts").write_text(
        (own_server.ssh / "known_hosts").read_text() + (server.ssh / "known_hosts").read_text()
    )
    boards = device(server).model_copy(update={"host": "local", "hosts": (server.url, own_server.url)})
    with open_runner(boards) as pool:
        assert isinstance(pool, RunnerPool)
        assert measured(pool, MODELS, Rounds(2, 1), HASTY).keys() == MODELS.keys()
        assert len(server.programs()) == len(own_server.programs()) == 1
