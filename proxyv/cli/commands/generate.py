"""Answer one question about one or more images."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxyv.cli.options import add_model, call
from proxyv.cli.printing import show
from proxyv.errors import UserError

EXAMPLE = 'runs/tiny-full --image page.png --prompt "value of C"'
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model, the images and the question."""
    add_model(parser)
    parser.add_argument("--image", action="append", default=[], help="image file; may be given several times")
    parser.add_argument("--prompt", required=True, help="the question; <image> marks where the images stand")
    parser.add_argument("--max_new_tokens", type=int, default=128)


def run(args: argparse.Namespace) -> None:
    """Print the answer."""
    from proxyv.checkpoints.load import load_for_evaluation
    from proxyv.data.images import BadImageError, open_image
    from proxyv.evaluation.answers import answer

    if args.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens: {args.max_new_tokens} is too small; use 1 or more")
    if any("\ud800" <= character <= "\udfff" for character in args.prompt):  # what argv makes of other bytes
        raise UserError("--prompt: holds bytes that are not UTF-8 text; write it in the terminal's encoding")
    try:
        images = [open_image(Path(path)) for path in args.image]
    except BadImageError as error:
        raise UserError(f"--image: {error}; give another file") from error
    loaded = call(load_for_evaluation, args, args.model)
    text = answer(loaded.model, loaded.processor, args.prompt, images, args.max_new_tokens)
    show({"answer": text}, args.json, [text])
