"""Reading ahead gives the same items and errors as reading, and ends with its context."""

import threading

import pytest

from mindone.data.ahead import read_ahead


def test_items_come_in_their_order():
    with read_ahead(range(100), 3) as items:
        assert list(items) == list(range(100))


def test_an_error_comes_after_the_items_before_it():
    def failing():
        yield 1
        raise ValueError("the third is broken")

    seen = []
    with pytest.raises(ValueError, match="the third is broken"), read_ahead(failing(), 3) as items:
        for item in items:
            seen.append(item)
    assert seen == [1]


@pytest.mark.parametrize("taken", [0, 1, 50])
def test_nothing_is_made_after_the_context(taken):
    made, before = [], threading.active_count()

    def counting():
        for number in range(1000):
            made.append(number)
            yield number

    with read_ahead(counting(), 3) as items:
        for _ in range(taken):
            next(items)
    assert threading.active_count() == before
    # those that were taken, those that wait, and one on its way after each of two looks at the end
    assert len(made) <= taken + 3 + 2


def test_no_more_is_made_ahead_than_was_said():
    made, waits = [], threading.Event()

    def counting():
        for number in range(5):
            made.append(number)
            if number == 3:
                waits.set()
            yield number

    with read_ahead(counting(), 3) as items:
        assert waits.wait(60)
        assert len(made) == 4
        assert list(items) == list(range(5))
