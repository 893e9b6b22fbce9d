"""Attention over slots equals one softmax a row, for any mixture of rows, windows, soft-capping and sinks."""

import pytest
import torch

from burnish.kernels.cached_attention import (
    Decode,
    Prefill,
    SlotStore,
    cached_attention,
    cached_attention_reference,
)

WAYS = [
    {},
    {"window": 3},
    {"softcap": 5.0},
    {"window": 4, "softcap": 5.0},
    {"sinks": torch.tensor([0.3, -1.0, 2.0, 0.0])},
]


def rows_of(lengths, heads, size):
    torch.manual_seed(0)
    return [torch.randn(3, heads, length, size) for length in lengths]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shared", [1, 2, 4])  # multi-query, grouped-query, multi-head
@pytest.mark.parametrize("size", [8, 80])
def test_rows_that_come_in_parts_equal_rows_at_once(way, shared, size):
    lengths = [1, 7, 5]
    rows = rows_of([length + 3 for length in lengths], 4, size)
    wanted = [cached_attention_reference(row[:1], row[1:2, :shared], row[2:, :shared], 0, 0.3, **way) for row in rows]
    store = SlotStore(4)
    store.make_room(12)

    def ask(step, query, key, value):
        return cached_attention(query, *store.write(0, key[:, :shared], value[:, :shared], step), step, 0.3, **way)

    # All but the last three tokens; then two more, behind what is kept; then one for each row.
    first = torch.cat([row[:, :, :length] for row, length in zip(rows, lengths, strict=True)], dim=2)
    got = ask(Prefill((0, 1, 2), (0, 0, 0), tuple(lengths)), *first.split(1))
    place = 0
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[:, :, place : place + length], wanted[row][:, :, :length])
        place += length
    second = torch.cat([row[:, :, length : length + 2] for row, length in zip(rows, lengths, strict=True)], dim=2)
    got = ask(Prefill((0, 1, 2), tuple(lengths), (2, 2, 2)), *second.split(1))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[:, :, 2 * row : 2 * row + 2], wanted[row][:, :, length : length + 2])
    last = torch.cat([row[:, :, length + 2 :] for row, length in zip(rows, lengths, strict=True)], dim=0)
    query, key, value = last[0::3], last[1::3], last[2::3]
    places = torch.tensor([length + 2 for length in lengths])
    got = ask(Decode(places, int(places.max()) + 1), query, key, value)
    for row in range(3):
        torch.testing.assert_close(got[row : row + 1], wanted[row][:, :, -1:])


def test_slots_can_be_copied_swapped_and_grown():
    store = SlotStore(3)
    store.make_room(4)
    key, value = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 4, 2)
    store.write(0, key, value, Prefill((1,), (0,), (4,)))
    store.copy(1, 2, 4)
    store.swap(1, 0, 4)
    store.make_room(300)
    assert store.room == 512
    assert torch.equal(store.keys[0][0, :, :4], key[0])
    assert torch.equal(store.values[0][2, :, :4], value[0])
    assert not store.keys[0][1].any()
