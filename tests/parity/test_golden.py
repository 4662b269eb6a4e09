"""The published model, number for number, over every variant and case found in the folder of recordings."""

import re

import pytest
import torch

from proxyv.convert import load_authors
from proxyv.convert.authors import rename_key
from proxyv.convert.tower import tower_prefix
from tests.parity.recordings import Case, cases_with, golden_folder

FOLDER = golden_folder()
TOLERANCE = dict(atol=1e-4, rtol=1e-4)


def every_case_with(kind):
    """Parametrise over the cases that recorded it, so that none has to be skipped."""
    cases = cases_with(FOLDER, kind)
    return pytest.mark.parametrize("variant, case", cases, ids=[f"{v}-{c}" for v, c in cases])


_models = {}


def load(variant, case):
    """The converted model of a variant (once) and one of its cases."""
    if variant not in _models:
        folder = FOLDER / variant / "model"
        size = Case(FOLDER, variant, case, 1, 0).meta["image_size"]
        _models[variant] = load_authors(folder, tower=str(FOLDER / f"clip{size}"))
    model = _models[variant]
    return model, Case(FOLDER, variant, case, model.config.tokens_per_crop, model.config.image_token_id)


def forward(model, recorded, **kwargs):
    batch = recorded.batch()
    batch.pop("labels")
    return model(**batch, **kwargs)


def first_rows(recorded):
    """Padding to the left of each sample in our batch."""
    lengths = [len(s.input_ids) for s in recorded.samples]
    return [max(lengths) - length for length in lengths]


def packed_loss(recorded, logits):
    """Cross entropy with the recorded packed labels."""
    chosen, targets = [], []
    for b, pad in enumerate(first_rows(recorded)):
        for kind in ("newline", "text"):
            theirs, ours = recorded.rows(b, kind)
            chosen.append(logits[b, pad + ours])
            targets.append(recorded.tensors["labels_packed"][b][theirs].long())
    return torch.nn.functional.cross_entropy(torch.cat(chosen), torch.cat(targets), ignore_index=-100)


@every_case_with("logits")
def test_logits(variant, case):
    model, recorded = load(variant, case)
    with torch.no_grad():
        logits = forward(model, recorded).logits
    compared = 0
    for b, pad in enumerate(first_rows(recorded)):
        for kind in ("newline", "text"):
            theirs, ours = recorded.rows(b, kind)
            want = recorded.tensors["logits_newline_text"][b][theirs - recorded.meta["packing"]["image_full_len"]]
            torch.testing.assert_close(logits[b, pad + ours], want, **TOLERANCE)
            compared += len(ours)
    assert compared > 0


@every_case_with("loss")
def test_loss_and_gradients(variant, case):
    model, recorded = load(variant, case)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(model.module_group(name) != "tower")
    model.zero_grad()
    if recorded.truncated:  # the label of the last kept token is the first token that was cut
        loss = packed_loss(recorded, forward(model, recorded).logits)
    else:
        loss = model(**recorded.batch()).loss
    assert loss.item() == pytest.approx(recorded.meta["loss"], abs=1e-4)
    loss.backward()
    ours = dict(model.named_parameters())
    start, prefix = model.config.method.get("start_layer", 0), tower_prefix(model)
    for key, norm in recorded.meta.get("grad_norms", {}).items():
        parameter = ours.get(rename_key(key, start, prefix))
        if parameter is None:  # the last layer's guided update, which nothing reads
            assert norm == 0.0, key
        else:
            assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-6), key
    for key, want in recorded.tensors.items():
        parameter = ours.get(rename_key(key.removeprefix("grad."), start, prefix)) if key.startswith("grad.") else None
        if parameter is not None:
            torch.testing.assert_close(parameter.grad, want.view_as(parameter), rtol=1e-4, atol=1e-5)


@every_case_with("cache")
def test_cache(variant, case):
    """Every layer's cache holds vision, newline and text rows, and the same keys and values."""
    model, recorded = load(variant, case)
    with torch.no_grad():
        cache = forward(model, recorded, use_cache=True).past_key_values
    for layer, length in enumerate(recorded.meta["kv_lengths_after_prefill"]):
        keys, values = cache.layers[layer].keys.double(), cache.layers[layer].values.double()
        assert keys.shape[2] == length
        found = torch.stack([keys.sum(), values.sum(), keys.norm(), values.norm()])
        torch.testing.assert_close(found, recorded.tensors["kv_sum"][layer], rtol=1e-4, atol=5e-3)


@every_case_with("decoding")
def test_greedy_decoding(variant, case):
    """Batches decode like each sample alone, which is what was recorded."""
    model, recorded = load(variant, case)
    trusted = {}
    if recorded.meta.get("generate", {}).get("trustworthy") and "gen_ids" in recorded.tensors:
        trusted[0] = (recorded.tensors["gen_ids"], recorded.tensors["gen_logits"])
    for key in recorded.meta.get("alone", {}):
        trusted[int(key)] = tuple(recorded.tensors[f"alone{key}.gen_{part}"] for part in ("ids", "logits"))
    batch = recorded.batch()
    del batch["labels"]
    out = model.generate(**batch, max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True)
    new = out.sequences[:, batch["input_ids"].shape[1] :]
    logits = torch.stack(out.logits, 1)
    for sample, (ids, step_logits) in trusted.items():
        assert new[sample].tolist() == ids[0].tolist()
        torch.testing.assert_close(logits[sample], step_logits[0], **TOLERANCE)


@every_case_with("states")
def test_states_inside(variant, case):
    """What comes out of every recorded layer, and out of every recorded guided update."""
    model, recorded = load(variant, case)
    outputs = layer_outputs(model, recorded)
    length = len(recorded.samples[0].input_ids)
    order = torch.cat([recorded.rows(0, kind)[1] for kind in ("vision", "newline", "text")])
    rest = order[recorded.meta["packing"]["image_full_len"] :]
    compared = 0
    for index, output in enumerate(outputs):
        want = recorded.tensors.get(f"state.layer{index}.out")
        if want is not None:
            proxies = torch.arange(length, output.shape[1])
            if want.shape[1] == len(order):
                rows, want = order, want[0]
            else:  # [proxies | newlines | text]; our last layer runs no proxies
                rows, want = torch.cat([proxies, rest]), want[0][-len(proxies) - len(rest) :]
            torch.testing.assert_close(output[0, rows], want, **TOLERANCE)
            compared += 1
        update = recorded.tensors.get(f"state.vmlp{index - model.config.method.get('start_layer', 0)}.out")
        if update is not None and index < len(outputs) - 1:  # the last layer's update is read by nothing: not run
            torch.testing.assert_close(output[0, order[: update.shape[1]]], update[0], **TOLERANCE)
    assert compared == sum(re.fullmatch(r"state\.layer\d+\.out", name) is not None for name in recorded.tensors)


def layer_outputs(model, recorded):
    """(B, rows, D) of every decoder layer in one pass, proxies behind the rows where there are any."""
    seen = []
    layers = model.language_model.model.layers
    hooks = [layer.register_forward_hook(lambda module, args, output: seen.append(output)) for layer in layers]
    with torch.no_grad():
        forward(model, recorded)
    for hook in hooks:
        hook.remove()
    return seen
