"""The examples in the model's docstrings run as they stand."""

import doctest

from proxyv.model import ProxyVProcessor, modeling
from tests.tiny import METHODS, random_image, tiny_model


def test_examples_of_the_model(tmp_path):
    model, processor = tiny_model(method=METHODS[1])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    given = {"folder": tmp_path, "image": random_image(), "ProxyVProcessor": ProxyVProcessor}
    failed, tried = doctest.testmod(modeling, extraglobs=given)
    assert tried >= 14 and not failed
