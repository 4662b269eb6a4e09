"""The layout and ProxyV's plan on batches small enough to work out by hand."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods.shared.proxy_rows import Visibility, make_proxy_plan
from proxyv.model.layout import make_layout

# Two samples of P = 4 vision tokens per crop. Sample 0: text, an image of two crops, text. Sample 1: two rows of
# padding, text, an image of one crop, text.
#             t  [c0 c0 c0 c0  n] [c1 c1 c1 c1  n]  t
SAMPLE_0 = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
SAMPLE_1 = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
IS_IMAGE = torch.tensor([SAMPLE_0, SAMPLE_1]).bool()
MASK = torch.tensor([[1] * 12, [0, 0] + [1] * 10])


class Positions(torch.nn.Module):
    """A stand-in for rotary tables that shows the positions."""

    def forward(self, like, position_ids):
        return position_ids[..., None].to(like.dtype), position_ids[..., None].to(like.dtype)


def plan_of(made, proxies_see_vision=False, text_sees_proxies=False):
    visibility = Visibility(proxies_see_vision, text_sees_proxies)
    return make_proxy_plan(made, 1, visibility, Positions(), "sdpa", torch.zeros(1))


def layout(positions="natural"):
    return make_layout(IS_IMAGE, MASK, [2, 1], 4, positions)


def test_rows_and_positions():
    made = layout()
    assert made.vision_rows.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [18, 19, 20, 21]]
    assert made.newline_rows.tolist() == [5, 10, 22]
    assert made.position_ids.tolist() == [list(range(12)), [0, 0, *range(10)]]
    assert made.sample_of_crop.tolist() == [0, 0, 1]
    assert made.image_of_crop.tolist() == [0, 0, 1] and made.crop_in_image.tolist() == [0, 1, 0]
    assert made.start_of_image.tolist() == [1, 1, 4]
    assert torch.equal(made.stock_mask(), MASK)


def test_the_authors_newline_positions():
    """The newline of crop 1 stands where that of crop 0 stands: five positions early."""
    made = layout("authors")
    assert made.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 11]
    mask = made.stock_mask()[:, 0]
    assert mask[0, 10].tolist() == [True] * 6 + [False] * 4 + [True, False]  # sees positions up to 5
    assert mask[0, 6].tolist() == [True] * 7 + [False] * 3 + [True, False]  # so crop 1 sees its own newline


def test_no_padding_needs_no_mask():
    assert make_layout(IS_IMAGE[:1], None, [2], 4).stock_mask() is None


def test_plan():
    """One proxy per crop: behind the 12 rows stand two proxies of sample 0, one of sample 1 and one empty slot."""
    plan = plan_of(layout())
    assert plan.length == 12
    assert plan.proxy_source.tolist() == [[0, 1], [2, 3]]  # 3: the zero row
    # Sample 0 asks with text 0 and 11 and newlines 5 and 10, sample 1 with text 2 to 5 and 11 and newline 10.
    assert plan.text.index[0, :4].tolist() == [0, 5, 10, 11]
    assert (plan.text.index[1] - 12).tolist() == [2, 3, 4, 5, 10, 11]
    assert plan.with_proxies.index[0, -2:].tolist() == [12, 13] and plan.with_proxies.index[1, -2:].tolist() == [
        14 + 12,
        14 + 13,
    ]
    # Proxies stand at the image's first positions: 1 and 2 in sample 0, 4 in sample 1.
    assert plan.cos[0, 12:, 0].tolist() == [1, 2] and plan.cos[1, 12, 0].item() == 4
    assert plan.with_proxies.mask.shape == (2, 1, 8, 14) and plan.text.mask.shape == (2, 1, 6, 12)


def test_visibility_table():
    plan = plan_of(layout())
    mask = plan.with_proxies.mask[0, 0]
    proxy_1 = mask[7]  # position 2: text before the image, proxy 0 and itself; no vision token
    assert proxy_1.nonzero().flatten().tolist() == [0, 12, 13]
    last_text = mask[3]  # everything but proxies
    assert last_text.nonzero().flatten().tolist() == list(range(12))
    newline_0 = mask[1]  # crop 0 and what came before
    assert newline_0.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_visibility_as_the_paper_describes_it():
    plan = plan_of(layout(), proxies_see_vision=True, text_sees_proxies=True)
    # A proxy at position 2 sees the vision tokens at 1 and 2 as well; the last text sees both proxies, in every layer.
    assert plan.with_proxies.mask[0, 0, 7].nonzero().flatten().tolist() == [0, 1, 2, 12, 13]
    assert plan.with_proxies.mask[0, 0, 3].nonzero().flatten().tolist() == list(range(14))
    assert plan.text.keys == 14 and plan.text.mask[0, 0, 3].all()


def test_scatter_undoes_gather():
    plan = plan_of(layout())
    rows = torch.arange(1.0, 25.0).view(2, 12, 1)
    vision = rows.flatten(0, 1)[plan.text.vision_rows]
    back = plan.text.scatter(vision, plan.text.gather(rows))
    expected = rows.clone()
    expected[1, :2] = 0  # padding rows become zero
    assert torch.equal(back, expected)


def test_resized_as_drawn():
    """The example of `Layout.resized`."""
    is_image = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    made, index = make_layout(is_image, mask, [1], 3).resized(1, extra=1)
    assert made.valid.tolist() == [[True] * 5, [False] + [True] * 4]
    assert made.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]
    assert (made.vision_rows.tolist(), made.newline_rows.tolist(), made.extra_rows.tolist()) == ([[1]], [2], [[3]])
    assert index[made.given].tolist() == [0, 1, 4, 5, 2, 3, 4, 5]  # old rows, extra rows and padding left out
    assert made.ranking_rows.nonzero().tolist() == [[0, 4], [1, 4]] and made.prompt_length == 6


def test_absent_vision_tokens_have_their_newline_s_row():
    made, _ = layout().resized(3, torch.tensor([3, 1, 2]))
    assert made.vision_rows.tolist() == [[1, 2, 3], [5, 6, 6], [12, 13, 14]]
    assert made.newline_rows.tolist() == [4, 6, 14]
    assert made.is_vision.sum() == 6 and not made.is_vision.flatten()[made.newline_rows].any()


@pytest.mark.parametrize(
    "crops, message",
    [
        ([2], "sample 1: 5 image placeholder rows but images for only 0"),
        ([1, 1], "sample 1: 5 image placeholder rows but images for only 0"),
        ([3, 1], "sample 0: 10 image placeholder rows, but its images take 15"),
        ([2, 1, 1], r"1 image\(s\) without a placeholder"),
    ],
)
def test_images_that_do_not_match(crops, message):
    with pytest.raises(UserError, match=message):
        make_layout(IS_IMAGE, MASK, crops, 4)
