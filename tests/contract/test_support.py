"""Family × method × attention back-end: one padded batch gives the logits of eager attention.

`scripts/support_matrix.sh` runs this file and keeps what passed in eval/results/support.json for the README.
"""

import pytest
import torch

from proxyv.model.families import FAMILIES
from tests.tiny import METHODS, picture, tiny_model

VARIANTS = {"baseline": METHODS[0], "spatial": METHODS[1], "non-spatial": METHODS[3]}
BACK_ENDS = [
    "eager",
    "sdpa",
    pytest.param("flex_attention", marks=pytest.mark.slow),
    pytest.param("flash_attention_2", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_back_end(family, variant, back_end):
    model, processor = tiny_model(family, VARIANTS[variant])
    inputs = processor(text=["A <image> B", "value of C"], images=[[picture()], []])
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
