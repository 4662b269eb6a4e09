"""Several processes of one evaluation, here threads that share a store: what ends one ends all."""

import threading
import time

import pytest
from torch.distributed import HashStore

from proxyv.errors import ElsewhereError, UserError
from proxyv.evaluation.team import Team, together
from proxyv.signals import Stopped


def run_as_team(work, size=2):
    """What `work(team)` returns or raises in each of `size` members, by rank."""
    store, outcomes = HashStore(), [None] * size

    def member(rank):
        try:
            with Team(rank, size, store) as team:
                outcomes[rank] = work(team)
        except BaseException as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), outcomes
    return outcomes


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together() as team, together() as inner:
        assert inner is team and team.is_main
        assert (team.from_main(lambda: 3), team.main_first(lambda: 4), team.gather(5)) == (3, 4, [5])
        add = team.counter()
        assert [add(2), add(3), team.counter()(0)] == [2, 5, 0]
    with together() as later:
        assert later is not team


def test_all_get_what_the_main_process_has_made():
    def work(team):
        first = []
        made = team.from_main(lambda: first.append(1) or {"a": [1]})
        order = team.main_first(lambda: time.monotonic())
        add = team.counter()
        add(team.rank + 1)
        return made, len(first), team.gather(team.rank), order

    zero, one, two = run_as_team(work, 3)
    assert zero[0] == one[0] == two[0] == {"a": [1]}
    assert [zero[1], one[1], two[1]] == [1, 0, 0]
    assert [zero[2], one[2], two[2]] == [[0, 1, 2], [], []]
    assert zero[3] < min(one[3], two[3])


def test_each_number_of_a_counter_is_taken_once():
    def work(team):
        add, taken = team.counter(), []
        while (number := add(1)) <= 50:
            taken.append(number)
        return taken

    assert sorted(sum(run_as_team(work, 3), [])) == list(range(1, 51))


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (UserError("file: wrong; mend it"), ElsewhereError),
        (RuntimeError("a mistake"), ElsewhereError),
        (Stopped("ended by SIGTERM"), Stopped),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_ends_one_ends_the_others(failing, error, elsewhere):
    def work(team):
        if team.rank == failing:
            raise error
        return team.from_main(lambda: 1), team.gather(1), time.sleep(0.3), team.look()

    outcomes = run_as_team(work)
    assert outcomes[failing] is error
    assert type(outcomes[1 - failing]) is elsewhere
    if elsewhere is not KeyboardInterrupt:
        assert str(outcomes[1 - failing]) == f"process {failing}: {error}"


def test_of_errors_alike_one_is_told_and_others_are_kept():
    def alike(team):
        raise UserError("no such file")

    def different(team):
        raise UserError(f"device {team.rank}: is not there")

    assert sorted(type(error).__name__ for error in run_as_team(alike, 3)) == ["ElsewhereError"] * 2 + ["UserError"]
    assert [str(error) for error in run_as_team(different)] == ["device 0: is not there", "device 1: is not there"]


def test_a_signal_that_follows_another_process_error_is_that_error():
    failed = threading.Event()

    def work(team):
        if team.rank == 1:
            try:
                raise UserError("wrong")
            finally:
                failed.set()
        failed.wait()
        time.sleep(0.2)  # the other one tells it when it leaves
        raise Stopped("ended by SIGTERM")  # by torchrun

    assert [type(error) for error in run_as_team(work)] == [ElsewhereError, UserError]
