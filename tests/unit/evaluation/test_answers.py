from PIL import Image

from proxyv.evaluation.answers import chat_prompt, generate_answers
from tests.tiny import tiny_model


def test_prompts_with_several_images_one_and_none_are_answered_in_one_batch_as_alone():
    model, processor = tiny_model()
    red, wide, blue = (Image.new("RGB", size, color) for size, color in SIZES)
    questions = [("which word", [red, wide]), ("value of C", []), ("value of AB", [blue])]
    prompts = [chat_prompt(processor, text, len(images)) for text, images in questions]
    assert [prompt.count("<image>") for prompt in prompts] == [2, 0, 1]
    together = generate_answers(model, processor, prompts, [images for _, images in questions], max_new_tokens=6)
    alone = [
        generate_answers(model, processor, [prompt], [images], max_new_tokens=6)[0]
        for prompt, (_, images) in zip(prompts, questions, strict=True)
    ]
    assert together == alone
    other = generate_answers(model, processor, prompts[:1], [[wide, blue]], max_new_tokens=6)[0]
    assert other != alone[0]


SIZES = [((56, 56), "red"), ((150, 60), "white"), ((80, 90), "blue")]
