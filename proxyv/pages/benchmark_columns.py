"""The columns of the public benchmarks, filled with what means nothing: one generator a data set.

Names, types and habits of the columns ("nan" for no hint, options as text, circular copies, expressions in a list) are
those of the data sets on the hub that lmms-eval reads. Each takes a random stream and the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxyv.pages.random_text import LETTERS, Draw

Row = dict[str, Any]

MME_CATEGORIES = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
OCRBENCH_SORTS = (
    *("Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition"),
    *("Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition"),
    *("Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction"),
    "Handwritten Mathematical Expression Recognition",
)
MMSTAR_CATEGORIES = {
    "coarse perception": ("image scene and topic", "image style & quality", "image emotion"),
    "math": ("geometry", "numeric commonsense and calculation", "statistical reasoning"),
    "logical reasoning": ("code & sequence reasoning", "diagram reasoning"),
}
MMBENCH_COPY = 1_000_000  # a circular copy's index is that of its question plus a multiple of this


def documents_rows(draw: Draw, count: int) -> Iterator[Row]:
    """DocVQA and InfographicVQA."""
    for index in range(count):
        answers = {"question": draw.question(), "answers": draw.answers(3)}
        yield {"questionId": str(50000 + index), **answers, "image": draw.image()}


def chartqa_rows(draw: Draw, count: int) -> Iterator[Row]:
    """ChartQA: people's questions and made ones."""
    for _ in range(count):
        sort, answer = draw.one(("human_test", "augmented_test")), draw.one((draw.number(), draw.answer()))
        yield {"type": sort, "question": draw.question(), "answer": answer, "image": draw.image()}


def textvqa_rows(draw: Draw, count: int) -> Iterator[Row]:
    """TextVQA: ten annotators, and OCR tokens that are not shown."""
    for index in range(count):
        answers, tokens = draw.annotations(10), draw.options(3)
        given = {"question": draw.question(), "answers": answers, "ocr_tokens": tokens}
        yield {"question_id": 34602 + index, **given, "image": draw.image()}


def vizwiz_rows(draw: Draw, count: int) -> Iterator[Row]:
    """VizWiz: ten annotators."""
    for index in range(count):
        given = {"question": draw.question(), "answers": draw.annotations(10), "category": "answerable"}
        yield {"question_id": f"VizWiz_val_{index:08d}", **given, "image": draw.image()}


def ocrbench_rows(draw: Draw, count: int) -> Iterator[Row]:
    """OCRBench: ten sorts of questions; HME100k has formulas."""
    for _ in range(count):
        yield {
            "dataset": draw.one(("IIIT5K", "svt", "HME100k", "FUNSD")),
            "question": f" {draw.question()}",
            "question_type": draw.one(OCRBENCH_SORTS),
            "answer": draw.answers(2),
            "image": draw.image(),
        }


def refcoco_rows(draw: Draw, count: int) -> Iterator[Row]:
    """RefCOCO, RefCOCO+, RefCOCOg: several expressions for a box (x, y, width, height) in pixels."""
    question = "Please carefully observe the area circled in the image and come up with a caption for the area."
    for index in range(count):
        box = [float(draw.count(0, 20)), draw.count(0, 80) / 4, float(draw.count(5, 20)), draw.count(20, 70) / 4]
        expressions = [draw.thing(3) for _ in range(draw.count(1, 3))]
        yield {
            "question_id": str(index),
            "question": question,
            "answer": expressions,
            "bbox": box,
            "image": draw.image(),
        }


def pope_rows(draw: Draw, count: int) -> Iterator[Row]:
    """POPE: is it there, yes or no."""
    for index in range(count):
        yield {
            "question_id": str(index + 1),
            "question": f"Is there a {draw.thing(1)} in the image?",
            "answer": draw.one(("yes", "no")),
            "category": draw.one(("adversarial", "popular", "random")),
            "image": draw.image(),
        }


def mme_rows(draw: Draw, count: int) -> Iterator[Row]:
    """Two questions on each image, one right with yes and one with no."""
    for index in range(count):
        pair = index // 2
        category = MME_CATEGORIES[pair % len(MME_CATEGORIES)]
        yield {
            "question_id": f"{category}/{pair:04d}.png",
            "question": f"Is this a {draw.thing(1)}? Please answer yes or no.",
            "answer": ("Yes", "No")[index % 2],
            "category": category,
            "image": draw.image(),
        }


def scienceqa_rows(draw: Draw, count: int) -> Iterator[Row]:
    """ScienceQA: the number of the right choice."""
    for _ in range(count):
        choices = draw.options(draw.count(2, 5))
        answer, hint = draw.count(0, len(choices) - 1), draw.one(("", draw.words(6)))
        yield {
            "question": draw.question(),
            "choices": choices,
            "answer": answer,
            "hint": hint,
            "image": draw.image(),
        }


def gqa_rows(draw: Draw, count: int) -> Iterator[Row]:
    """GQA: images lie in a file of their own."""
    for index in range(count):
        answer = draw.one((draw.word(), "yes", "no", "left", "t-shirt"))
        yield {"id": f"20{index:06d}", "imageId": f"n{index // 2}", "question": draw.question(), "answer": answer}


def gqa_images_rows(draw: Draw, count: int) -> Iterator[Row]:
    """The images of GQA, one for two questions."""
    for index in range(count // 2 + 1):
        yield {"id": f"n{index}", "image": draw.image()}


def seedbench_rows(draw: Draw, count: int) -> Iterator[Row]:
    """Every fourth question is about a video's frames."""
    for index in range(count):
        video = index % 4 == 3
        yield {
            "question_id": str(101669 + index),
            "question": draw.question(),
            **{f"choice_{letter}": text for letter, text in zip("abcd", draw.options(4), strict=True)},
            "answer": draw.one(LETTERS[:4]),
            "data_type": "video" if video else "image",
            "image": [draw.image() for _ in range(3 if video else 1)],
        }


def mmstar_rows(draw: Draw, count: int) -> Iterator[Row]:
    """MMStar: options stand in the question."""
    for index in range(count):
        category = draw.one(tuple(MMSTAR_CATEGORIES))
        options = ", ".join(f"{letter}: {text}" for letter, text in zip("ABCD", draw.options(4), strict=True))
        yield {
            "index": index,
            "question": f"{draw.question()}\nOptions: {options}",
            "answer": draw.one(LETTERS[:4]),
            "category": category,
            "l2_category": draw.one(MMSTAR_CATEGORIES[category]),
            "image": draw.image(),
        }


def ai2d_rows(draw: Draw, count: int) -> Iterator[Row]:
    """AI2D: the number of the right option, as text."""
    for _ in range(count):
        options, answer = draw.options(4), str(draw.count(0, 3))
        yield {"question": draw.question(), "options": options, "answer": answer, "image": draw.image()}


def realworldqa_rows(draw: Draw, count: int) -> Iterator[Row]:
    """RealWorldQA: every third question is open."""
    for index in range(count):
        if index % 3:
            lines = "\n".join(f"{letter}. {text}" for letter, text in zip("ABC", draw.options(3), strict=True))
            ending = f"\n{lines}\nPlease answer directly with only the letter of the correct option and nothing else."
            answer = draw.one(LETTERS[:3])
        else:
            ending, answer = "Please answer directly with a single word or number.", draw.one(("Yes", "3", "Downhill"))
        yield {"question": f"{draw.question()} {ending}", "answer": answer, "image": draw.image()}


def mmbench_rows(draw: Draw, count: int) -> Iterator[Row]:
    """Each question with its circular copies, in each of which the options have moved on by one."""
    for number in range(count):
        options = draw.options(draw.count(2, 4))
        question, hint, answer = draw.question(), draw.one(("nan", draw.words(5))), draw.count(0, len(options) - 1)
        category, image = draw.one(("action_recognition", "attribute_comparison")), draw.image()
        for turn in range(len(options)):
            texts = [*options[turn:], *options[:turn], "nan", "nan"]
            yield {
                "index": 241 + number + turn * MMBENCH_COPY,
                "question": question,
                "hint": hint,
                "answer": LETTERS[(answer - turn) % len(options)],
                **{letter: text for letter, text in zip("ABCD", texts, strict=False)},
                "category": category,
                "L2-category": "finegrained_perception",
                "source": "generated",
                "split": "dev",
                "image": image,
            }


def mmmu_rows(draw: Draw, count: int) -> Iterator[Row]:
    """Options are a list that is written as text; every fifth question is open."""
    for index in range(count):
        options = draw.options(draw.count(2, 5)) if index % 5 < 4 else []
        images = draw.count(1, 2)
        marks = " ".join(f"<image {number + 1}>" for number in range(images))
        yield {
            "id": f"validation_{draw.one(('Art', 'Math', 'Music'))}_{index + 1}",
            "question": f"{marks} {draw.question()}",
            "options": repr(options),
            "answer": draw.one(LETTERS[: len(options)]) if options else draw.one((draw.number(), draw.word())),
            "question_type": "multiple-choice" if options else "open",
            **{f"image_{number + 1}": draw.image() if number < images else None for number in range(7)},
        }


def ccpdf_rows(draw: Draw, count: int) -> Iterator[Row]:
    """After `count` lines come one of another task and one of another data set."""
    locate = "Identify the text within the bounding box <bbox>1,2,3,4</bbox>"
    for index in range(count + 2):
        folder = "TURL" if index > count else "CCpdf"
        parse = f"Recognize text in the image of {draw.thing(1)}."
        question, image = locate if index == count else parse, f"./val_imgs/{folder}/pages/{index:06d}_page0.png"
        turns = [("user", f"<|image|>{question}"), ("assistant", draw.page())]
        yield {
            "image": [image],
            "messages": [{"role": role, "content": content} for role, content in turns],
            "task_name": "generated",
            "dataset_name": folder,
        }
