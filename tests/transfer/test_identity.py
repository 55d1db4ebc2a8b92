"""Which identities are one: what changed makes another, and what one answer does not say decides nothing."""

from __future__ import annotations

import pytest

from tidegate.model import Identity

PLAIN = Identity(url="http://host/film.mp4", name="film.mp4", size_bytes=5)
A, B = "sha256:" + "aa" * 32, "sha256:" + "bb" * 32


def told(**given: object) -> Identity:
    return PLAIN.model_copy(update=given)


CHANGES = [
    ({"size_bytes": 5}, {"size_bytes": 6}),
    ({"etag": '"a"'}, {"etag": '"b"'}),
    ({"weak_etag": 'W/"a"'}, {"weak_etag": 'W/"b"'}),
    ({"weak_etag": 'W/"a"', "last_modified": "x"}, {"weak_etag": 'W/"b"', "last_modified": "x"}),
    ({"digests": (A,)}, {"digests": (B,)}),
    ({"digests": (A,), "etag": '"a"'}, {"digests": (B,), "etag": '"a"'}),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_what_changed_is_other_content_with_another_key(before: dict[str, object], after: dict[str, object]) -> None:
    assert not told(**before).same_content_as(told(**after))
    assert told(**before).key != told(**after).key
    assert told(**before).same_content_as(told(**before))


@pytest.mark.parametrize("given", [{"weak_etag": 'W/"a"'}, {"digests": (A,)}, {"digests": ("md5:00", A)}])
def test_what_only_one_answer_says_decides_nothing(given: dict[str, object]) -> None:
    assert told(**given).same_content_as(PLAIN) and PLAIN.same_content_as(told(**given))
    assert told(digests=("md5:00",)).same_content_as(told(digests=(A,)))


def test_a_claim_that_answers_about_different_parts_make_alike_is_a_digest_of_the_whole() -> None:
    assert told(claims=(A, "md5:00")).with_claims_of(told(claims=(A, "md5:11"))).digests == (A,)
    assert told(digests=(B,), claims=(A,)).with_claims_of(PLAIN).digests == (B,)
    assert told(claims=(A,)).same_content_as(told(claims=(B,))), "alone it says nothing"
    assert told(claims=(A,)).key == PLAIN.key


def test_the_order_of_digests_means_nothing() -> None:
    assert told(digests=("md5:00", A)).key == told(digests=(A, "md5:00")).key


def test_neither_weak_etags_nor_digests_are_something_to_resume_by() -> None:
    assert not told(weak_etag='W/"a"', digests=(A,)).has_validator


@pytest.mark.parametrize(
    ("known", "answer", "same"),
    [
        ({"etag": '"a"'}, {"etag": '"a"'}, True),
        ({"etag": '"a"'}, {}, False),
        ({"etag": '"a"', "last_modified": "x"}, {"last_modified": "x"}, False),
        ({"last_modified": "x"}, {"etag": '"a"', "last_modified": "x"}, True),
        ({}, {}, False),
    ],
)
def test_an_answer_proves_itself_by_the_validator_that_is_known(
    known: dict[str, object], answer: dict[str, object], same: bool
) -> None:
    assert told(**known).same_validator_as(told(**answer)) == same
