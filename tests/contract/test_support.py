"""Family × attention back-end, and method × attention back-end: one padded batch gives the logits of eager attention.

`python -m tests.support_matrix` runs this file and keeps what passed in eval/results/support.json for eval/README.md.
"""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import masking_utils

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.model.families import FAMILIES
from tests.contract.method_settings import SHIPPED, method_fields
from tests.tiny import METHODS, random_image, tiny_model

VARIANTS = {"baseline": METHODS[0], "spatial": METHODS[1], "non-spatial": METHODS[3]}
BACK_ENDS = [
    "eager",
    "sdpa",
    pytest.param("flex_attention", marks=pytest.mark.slow),
    pytest.param("flash_attention_2", marks=pytest.mark.gpu),
]


every_back_end = pytest.mark.parametrize("back_end", BACK_ENDS)


@pytest.fixture(autouse=True)
def flex_masks_as_they_are(request, monkeypatch):
    """Make flex attention's block masks without compiling what makes them: the same masks in a tenth of the time. One
    case compiles, as transformers does."""
    if "llama-baseline" not in request.node.name:
        uncompiled = {"_compile": False}
        monkeypatch.setattr(masking_utils, "create_block_mask", lambda **given: create_block_mask(**given | uncompiled))


@every_back_end
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, variant, back_end, record_property):
    """A family whose scores are capped refuses sdpa, in one line."""
    if back_end != "sdpa" or FAMILIES[family].score_cap is None:
        return equals_eager(family, VARIANTS[variant], back_end)
    with pytest.raises(UserError, match="attention: 'sdpa' cannot cap scores"):
        equals_eager(family, VARIANTS[variant], back_end)
    record_property("outcome", "refused")


@every_back_end
@pytest.mark.parametrize("method", SHIPPED)
def test_method(method, back_end, record_property):
    """With shared key heads. A method that needs a mask over all pairs of rows may refuse, in one line."""
    refuses = "dense_mask" in make_method({"name": method}).needs and back_end not in ("eager", "sdpa")
    if not refuses:
        return equals_eager("qwen2", method_fields(method), back_end)
    with pytest.raises(UserError, match="attention"):
        equals_eager("qwen2", method_fields(method), back_end)
    record_property("outcome", "refused")


def equals_eager(family, method, back_end):
    model, processor = tiny_model(family, method)
    inputs = processor(text=["A <image> B", "value of C"], images=[[random_image()], []])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
        model.set_attn_implementation(back_end)
        if back_end == "flash_attention_2":
            model.to("cuda", torch.bfloat16)
            found = model(**inputs.to("cuda"), logits_to_keep=1).logits.float().cpu()
            assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.99
        else:
            found = model(**inputs, logits_to_keep=1).logits
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
