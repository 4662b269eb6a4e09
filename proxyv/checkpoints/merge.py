"""`proxyv merge`: an adapter folder → an ordinary model folder, whose logits are compared with the adapted model's."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import torch

from proxyv.checkpoints.adapter_folder import is_adapter_folder, load_adapter_folder
from proxyv.checkpoints.run_folder import RECIPE, find_model, run_of
from proxyv.errors import UserError, naming
from proxyv.model import ProxyVForConditionalGeneration, ProxyVProcessor
from proxyv.model.dtypes import find_dtype
from proxyv.model.lora import merge_adapters
from proxyv.model.processing import check_fit

# Largest difference of a logit that is allowed, as a share of the largest logit: merging adds up in another order,
# and a model that is saved in half precision rounds its merged weights.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
TEXT_TOKENS = 32


def merge_folder(source: str | Path, target: str | Path, dtype: str = "float32") -> dict[str, float]:
    """Merge an adapter folder, or the run whose last stage left one, into a model folder `target`.

    Args:
        dtype: precision to save in: "float32" (in which stages train, and in which this works), "bfloat16", "float16".

    Returns the figures of the check: largest_difference, tolerance, largest_logit.
    Raises UserError where `source` holds no adapter, `target` exists, or the logits differ by more than the
    tolerance; `target` is not written then.
    """
    precision = find_dtype(dtype)
    folder, target = find_model(source), Path(target)
    if not is_adapter_folder(folder):
        raise UserError(f"{folder}: holds a whole model, no adapter; there is nothing to merge")
    if target.exists():
        raise UserError(f"{target}: exists already; choose another target")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a merge that was killed
    try:
        expected = _write_merged(folder, partial, precision)
        gc.collect()
        found = made_up_logits(ProxyVForConditionalGeneration.from_pretrained(partial, dtype=torch.float32))
        figures = {
            "largest_difference": float((found - expected).abs().max()),
            "largest_logit": float(expected.abs().max()),
        }
        figures["tolerance"] = TOLERANCES[dtype] * figures["largest_logit"]
        if not figures["largest_difference"] <= figures["tolerance"]:  # a NaN is off too
            raise UserError(
                f"{folder}: merged logits differ by {figures['largest_difference']:.3g}, more than "
                f"{figures['tolerance']:.3g}; keep the adapter folder, or train it in float32"
            )
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return figures


def _write_merged(folder: Path, partial: Path, dtype: torch.dtype) -> torch.Tensor:
    """Write the merged model to `partial`; returns the logits of the adapted one."""
    processor = ProxyVProcessor.from_pretrained(folder)
    model = load_adapter_folder(folder, dtype=torch.float32)
    with naming(folder):
        check_fit(model.config, processor)
    expected = made_up_logits(model)
    merge_adapters(model)
    model.to(dtype).save_pretrained(partial)
    processor.save_pretrained(partial)
    run = run_of(folder)
    if run is not None:  # names suite and data for `proxyv eval`
        shutil.copy(run / RECIPE, partial)
    return expected


@torch.no_grad()
def made_up_logits(model: ProxyVForConditionalGeneration) -> torch.Tensor:
    """Logits (L, vocabulary) of one made-up sample, always the same: a crop of noise, then random text."""
    config, noise = model.config, torch.Generator().manual_seed(0)
    side, channels = config.vision_config.image_size, config.vision_config.num_channels
    image = torch.full((1, config.tokens_per_crop + 1), config.image_token_id)
    text = torch.randint(config.text_config.vocab_size, (1, TEXT_TOKENS), generator=noise)
    text[text == config.image_token_id] = 0
    crop = torch.randn(1, channels, side, side, generator=noise)
    input_ids = torch.cat([text[:, :4], image, text[:, 4:]], 1)
    return model.eval()(input_ids=input_ids, pixel_values=crop, crops_per_image=[1]).logits[0].float()
