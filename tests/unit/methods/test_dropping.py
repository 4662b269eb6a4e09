"""What methods share that drop vision tokens between decoder layers, on batches small enough to work out by hand."""

from types import SimpleNamespace

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.methods.shared.row_subset import all_rows, received_attention
from proxyv.model.families import Family
from proxyv.model.layout import make_layout
from tests.tiny import tiny_model

# Two samples of P = 4 vision tokens per crop. Sample 0: text, an image of two crops, text. Sample 1: two rows of
# padding, four of text, an image of one crop, text.
#     row    0   1   2   3   4   5   6   7   8   9  10  11
#            t  [v0  v1  v2  v3  n] [v4  v5  v6  v7  n]  t
#            -   -   t   t   t   t  [v0  v1  v2  v3  n]  t
IS_IMAGE = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]]).bool()
MASK = torch.tensor([[1] * 12, [0, 0] + [1] * 10])
SCORES = torch.tensor([[0.1, 0.9, 0.2, 0.3, 0.8, 0.1, 0.1, 0.7], [0.5, 0.1, 0.5, 0.2, 9.0, 9.0, 9.0, 9.0]])


def rows_of(labels=None):
    return all_rows(make_layout(IS_IMAGE, MASK, [2, 1], 4, labels=labels), torch.device("cpu"))


def test_an_image_is_one_set_of_candidates_over_its_crops():
    rows = rows_of()
    assert rows.counts == (8, 4) and rows.samples == (0, 1) and rows.sizes == [12, 10] and rows.padded
    assert rows.vision[0].tolist() == [1, 2, 3, 4, 6, 7, 8, 9] and rows.vision[1, :4].tolist() == [6, 7, 8, 9]
    assert rows.others[0, :4].tolist() == [0, 5, 10, 11] and rows.others[1].tolist() == [2, 3, 4, 5, 10, 11]
    assert rows.ranking_places.tolist() == [[11], [11]]  # without labels, a sample's last row


def test_the_best_stay_in_reading_order():
    """Of image 0 stay v1, v4 and v7 at rows 2, 6 and 9, of image 1 v0 and v2 at rows 6 and 8: 7 and 8 rows."""
    kept, old = rows_of().keep_top(SCORES, [3, 2])
    assert kept.valid.tolist() == [[False] + [True] * 7, [True] * 8]
    assert kept.index[0, 1:].tolist() == old[0, 1:].tolist() == [0, 2, 5, 6, 9, 10, 11]
    assert kept.index[1].tolist() == old[1].tolist() == [2, 3, 4, 5, 6, 8, 10, 11]
    assert kept.position_ids[0, 1:].tolist() == [0, 2, 5, 6, 9, 10, 11]
    assert kept.position_ids[1].tolist() == [0, 1, 2, 3, 4, 6, 8, 9]  # two rows of padding came before
    assert kept.compacted().position_ids.tolist() == [[0, *range(7)], list(range(8))]
    assert kept.vision[0].tolist() == [2, 4, 5] and kept.vision[1, :2].tolist() == [4, 5]
    assert kept.others[0, :4].tolist() == [1, 3, 6, 7] and kept.others[1].tolist() == [0, 1, 2, 3, 6, 7]
    assert kept.ranking_places.tolist() == [[7], [7]] and kept.counts == (3, 2) and kept.sizes == [7, 8]


def test_a_second_drop_works_on_what_is_left():
    """Of v1, v4, v7 stays v4; of v0 and v2, which are as good as each other, the earlier."""
    kept, _ = rows_of().keep_top(SCORES, [3, 2])
    again, old = kept.keep_top(torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.5, 9.0]]), [1, 1])
    assert again.index[0, 2:].tolist() == [0, 5, 6, 10, 11] and old[0, 2:].tolist() == [1, 3, 4, 6, 7]
    assert again.index[1].tolist() == [2, 3, 4, 5, 6, 10, 11] and old[1].tolist() == [0, 1, 2, 3, 4, 6, 7]
    none, _ = again.keep_top(torch.zeros(2, 1), [0, 0])
    assert none.index[0, 2:].tolist() == [0, 5, 10, 11] and none.sizes == [4, 6] and none.vision.shape == (2, 0)


def test_rows_before_supervised_spans_rank():
    """Sample 0: spans start at rows 0, which no row precedes, and 11. Sample 1 has none: its last row ranks."""
    labels = torch.full((2, 12), -100)
    labels[0, 0] = labels[0, 11] = 1
    assert rows_of(labels).ranking_places.tolist() == [[10], [11]]
    labels[1, 3:5] = labels[1, 11] = 1  # rows 2 and 10
    rows = rows_of(labels)
    assert rows.ranking_places[1].tolist() == [2, 10] and rows.ranking_valid.tolist() == [[True, False], [True, True]]


def heads(attention, rows, pick):
    """Two query heads, the second with twice the first one's queries, share one key head of size 1."""
    query = pick(rows)[..., :1]
    return torch.stack([query, 2 * query], 1), rows[:, None, :, 1:], rows[:, None, :, 1:]


@pytest.mark.parametrize("keys_are_there", [True, False])
def test_received_attention_worked_out(keys_are_there):
    """A text row, three vision tokens, a newline and the ranking text row; e to the keys is 1, 2, 3, 4, 1, 1.

    The query of head 0 is 1: weights 2, 3, 4 of 12. That of head 1 is 2, which squares: 4, 9, 16 of 32. The mean of
    both is 7/48, 17/64 and 5/12."""
    is_image = torch.tensor([[0, 1, 1, 1, 1, 0]]).bool()
    rows = all_rows(make_layout(is_image, None, [1], 3), torch.device("cpu"))
    key = torch.tensor([1.0, 2, 3, 4, 1, 1]).log()
    hidden = torch.stack([torch.tensor([9.0, 9, 9, 9, 9, 1]), key], -1)[None]
    layer = SimpleNamespace(input_layernorm=torch.nn.Identity(), self_attn=SimpleNamespace(scaling=1.0))
    tables = torch.ones(1, 6, 1), torch.zeros(1, 6, 1)
    known = key.view(1, 1, 6, 1) if keys_are_there else None
    received = received_attention(layer, Family(heads), hidden, rows, tables, known)
    torch.testing.assert_close(received, torch.tensor([[7 / 48, 17 / 64, 5 / 12]]))


def test_received_attention_is_the_mean_over_ranking_rows():
    """Both samples' vision tokens have equal keys, so a row that sees n rows gives each 1/n of its attention: rows
    10 and 11 of sample 0 see 11 and 12, and rows 2 (itself only) and 10 of sample 1, behind padding, 1 and 9."""
    labels = torch.full((2, 12), -100)
    labels[0, 11] = labels[1, 3] = labels[1, 11] = 1
    layer = SimpleNamespace(input_layernorm=torch.nn.Identity(), self_attn=SimpleNamespace(scaling=1.0))
    tables = torch.ones(2, 12, 1), torch.zeros(2, 12, 1)
    received = received_attention(layer, Family(heads), torch.zeros(2, 12, 2), rows_of(labels), tables)
    torch.testing.assert_close(received[0], torch.full((8,), 1 / 11))
    torch.testing.assert_close(received[1, :4], torch.full((4,), (0 + 1 / 9) / 2))


def test_authors_newline_positions_are_refused():
    """There, rows do not stand in the order of their positions."""
    model, _ = tiny_model()
    model.config.newline_positions = "authors"
    with pytest.raises(UserError, match="newline_positions"):
        make_method({"name": "fastv", "layer": 1}).check(model.config, 16)
