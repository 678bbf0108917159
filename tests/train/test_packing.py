"""Packing: every sample once, no pack over budget, labels shifted inside each sample."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swegym.train.packing import Sample, pack, plan_packs


def test_two_documents_by_hand() -> None:
    samples = [
        Sample((11, 12, 13), (0, 1, 1), {"advantages": (9.0, 0.5, -0.5)}),
        Sample((21, 22), (1, 1), {"advantages": (8.0, 2.0)}),
    ]
    (batch,) = pack(samples, 10)
    assert batch.tokens_T.tolist() == [11, 12, 13, 21, 22]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.document_ids_T.tolist() == [0, 0, 0, 1, 1]
    assert batch.cu_seqlens_D1.tolist() == [0, 3, 5]
    assert batch.labels_T.tolist() == [12, 13, 0, 22, 0]
    assert batch.target_mask_T.tolist() == [True, True, False, True, False]
    assert batch.values_T["advantages"].tolist() == [0.5, -0.5, 0.0, 2.0, 0.0]
    assert batch.sample_indices == (0, 1)
    assert (batch.num_tokens, batch.num_documents, batch.num_targets, batch.lengths) == (5, 2, 3, [3, 2])


def test_one_token_sample_has_no_target() -> None:
    (batch,) = pack([Sample((5,), (1,))], 10)
    assert batch.target_mask_T.tolist() == [False]


def test_first_fit_by_hand() -> None:
    assert plan_packs([4, 3, 9, 2, 1, 6], 7) == [[0, 1], [2], [3, 4], [5]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 20))
def test_every_sample_once_and_none_over_budget(lengths: list[int], budget: int) -> None:
    plan = plan_packs(lengths, budget)
    assert sorted(chain.from_iterable(plan)) == list(range(len(lengths)))
    for indices in plan:
        assert len(indices) == 1 or sum(lengths[index] for index in indices) <= budget


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=15), st.integers(1, 20))
def test_targets_are_the_next_tokens_of_their_own_sample(lengths: list[int], budget: int) -> None:
    samples = [
        Sample(
            tuple(100 * index + place for place in range(length)),
            tuple(place % 3 != 1 for place in range(length)),
            {"value": tuple(float(100 * index + place) for place in range(length))},
        )
        for index, length in enumerate(lengths)
    ]
    trained = []
    for batch in pack(samples, budget):
        mask_T = batch.target_mask_T
        labels, values = batch.labels_T[mask_T].tolist(), batch.values_T["value"][mask_T].tolist()
        assert labels == values
        assert labels == (batch.tokens_T[mask_T] + 1).tolist()
        trained += labels
    expected = [
        token
        for sample in samples
        for token, flag in list(zip(sample.tokens, sample.loss_mask, strict=True))[1:]
        if flag
    ]
    assert sorted(trained) == expected


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([Sample((), ())], "sample 0 has no tokens"),
        ([Sample((1, 2), (1,))], "sample 0: loss_mask has 1 entries for 2 tokens"),
        ([Sample((1,), (1,)), Sample((1,), (1,), {"a": (1.0,)})], "sample 1 has values"),
        ([Sample((1, 2), (1, 1), {"a": (1.0,)})], "a has 1 entries"),
    ],
)
def test_bad_samples_are_named(samples: list[Sample], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(samples, 8)


def test_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        plan_packs([1], 0)


def test_no_samples_no_packs() -> None:
    assert pack([], 4) == []
