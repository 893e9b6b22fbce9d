"""The shift happens once; padding is known by length, not by id."""

import torch

from burnish.batch.collate import collate_packed, collate_padded
from burnish.template import Example

A = Example([10, 11, 12, 2], [-100, -100, 12, 2])
B = Example([20, 2], [-100, 2])


def test_packed_rows():
    batch = collate_packed([A, B], [5, 9])
    assert batch.input_ids.tolist() == [[10, 11, 12, 2, 20, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.document_lengths == (4, 2)
    # 12 is predicted at place 1, the stop token of A at 2, that of B at 4 (after 20).
    assert batch.loss_positions.tolist() == [1, 2, 4]
    assert batch.loss_targets.tolist() == [12, 2, 2]
    assert batch.samples == (5, 9)
    assert batch.tokens == 6


def test_padded_rows_keep_a_stop_token_that_is_also_the_pad_token():
    batch = collate_padded([A, B], pad_id=2)
    assert batch.input_ids.tolist() == [[10, 11, 12, 2], [20, 2, 2, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.loss_positions.tolist() == [1, 2, 4]
    assert batch.loss_targets.tolist() == [12, 2, 2]
    assert batch.tokens == 6


def test_the_first_token_of_a_document_is_never_a_target():
    trained = Example([7, 8], [7, 8])
    batch = collate_packed([trained, trained])
    assert batch.loss_targets.tolist() == [8, 8]
    assert batch.loss_positions.tolist() == [0, 2]


def test_weights_travel():
    batch = collate_packed([Example([1, 2, 3], [-100, 2, 3], [0.0, 0.5, 1.0])])
    torch.testing.assert_close(batch.loss_weights, torch.tensor([0.5, 1.0]))
