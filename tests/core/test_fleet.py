"""When a member of a fleet is taken for dead."""

from __future__ import annotations

from creche.core.fleet import GONE_AFTER_S, LEASE_S, Member, Sightings, decode_member


def test_who_tells_something_new_is_alive() -> None:
    """However long it goes."""
    sightings = Sightings()
    for now in range(0, 200, 2):
        assert sightings.look({"a": b"%d" % now}, now) == []


def test_who_tells_nothing_new_is_gone_after_a_while() -> None:
    """Not before, and again with every look until it is no member any more."""
    sightings = Sightings()
    gone_at = [now for now in range(0, 60, 2) if sightings.look({"a": b"same", "b": b"%d" % now}, now) == ["a"]]
    assert gone_at[0] == GONE_AFTER_S
    assert sightings.look({"b": b"-"}, 60) == []


def test_who_was_away_itself_begins_anew() -> None:
    """It has not seen what the others did meanwhile: the server may have been away for all."""
    sightings = Sightings()
    for now in range(0, 38, 2):
        sightings.look({"a": b"same"}, now)
    back = 36 + LEASE_S + 1
    assert sightings.look({"a": b"same"}, back) == []
    looks = [sightings.look({"a": b"same"}, back + later) for later in range(2, 42, 2)]
    assert looks == [[]] * 19 + [["a"]]


def test_one_that_joins_is_watched_from_then_on() -> None:
    """Also under a name that was there before."""
    sightings = Sightings()
    sightings.look({"a": b"same"}, 0)
    sightings.look({}, 5)
    for now in range(10, 50, 5):
        assert sightings.look({"a": b"same"}, now) == []
    assert sightings.look({"a": b"same"}, 50) == ["a"]


def test_a_member_of_a_newer_version_can_be_read() -> None:
    """What it tells besides is not for us."""
    told = b'{"id":"a","host":"h","version":"9","capacity":5,"beat":3,"colour":"red"}'
    assert decode_member(told) == Member(id="a", host="h", version="9", capacity=5, beat=3)
