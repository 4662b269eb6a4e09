"""Every expected figure is worked out by hand in the comment beside it."""

import pytest

from proxyv.errors import UserError
from proxyv.evaluation.metrics import METRICS, get_metric
from proxyv.evaluation.metrics.boxes import box_iou, gold_box, parse_box
from proxyv.evaluation.metrics.letters import inferred_letter, stated_letter
from proxyv.evaluation.metrics.vqa import normalize_vqa_answer


def score(name, prediction, references, **row):
    return METRICS[name].function(prediction, references, row)[name]


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("hello", ["hello"], 1.0),
        ("HELLO  World ", ["hello world"], 1.0),  # distance 0 after lower case and collapsed blanks
        ("hallo", ["hello"], 0.8),  # 1 - 1/5
        ("abcd", ["abxy"], 0.5),  # 1 - 2/4, the threshold itself counts
        ("abc", ["axy"], 0.0),  # 1 - 2/3 is below the threshold
        ("12", ["123", "12"], 1.0),  # the best reference
        ("", ["a"], 0.0),  # 1 - 1/1
        ("", [""], 1.0),
        ("   a", ["b"], 0.75),  # distance 1 of "a" and "b", divided by the 4 characters as they came
        ("straße", ["strasse"], 1 - 2 / 7),  # ß to s, one s more
        ("ßßab", ["ßßxy"], 1 - 2 / 6),  # in upper case both have 6 letters
    ],
)
def test_anls(prediction, references, expected):
    assert score("anls", prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("105", "100", 1.0),  # 5/100 is just allowed
        ("105.1", "100", 0.0),
        ("-95", "-100", 1.0),
        ("12%", "0.12", 1.0),  # a percentage is its fraction
        ("12", "12%", 0.0),  # 12 against 0.12
        ("0", "0", 1.0),  # a zero reference compares texts
        ("0.0", "0", 0.0),
        ("Blue", "blue", 1.0),
        ("blue", "blue ", 0.0),  # a gold's blanks count
        ("12", " 12 ", 1.0),  # but not a number's
        ("dark blue", "blue", 0.0),
        ("1,000", "1000", 0.0),  # not a number to Python's float
        ("", "5", 0.0),
        ("%", "%", 1.0),
        ("nan", "nan", 0.0),  # numbers that nothing is near to
        ("inf", "Infinity", 0.0),
    ],
)
def test_relaxed_accuracy(prediction, reference, expected):
    assert score("relaxed_accuracy", prediction, [reference]) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat.", "cat"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("well", "well"),  # a word of its own, not "we'll"
        ("1,000", "1000"),
        ("3.5", "3.5"),  # the stop before a digit stays
        ("5.", "5"),
        ("." * 40, "." * 8),  # 32 full stops go
        ("red/blue", "red blue"),  # between letters a mark becomes a blank
        ("red / blue", "red blue"),  # beside a blank it goes
        ("Tom's", "tom 's"),
        ("what?!", "what"),
        ("a\tb\nc", "b c"),
        ("", ""),
        ("Café", "café"),
    ],
)
def test_vqa_normal_form(answer, expected):
    assert normalize_vqa_answer(answer) == expected


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (0, 0.0),
        (1, 0.3),  # 9 of 10 left-out annotators leave 1 match: 9 · 1/3 / 10
        (2, 0.6),  # 2 · 1/3 + 8 · 2/3 = 6, / 10
        (3, 0.9),  # 3 · 2/3 + 7 · 1 = 9, / 10
        (4, 1.0),  # 4 · 1 + 6 · 1 = 10, / 10
        (10, 1.0),
    ],
)
def test_vqa_accuracy(matches, expected):
    references = ["Two dogs"] * matches + ["cat"] * (10 - matches)
    assert score("vqa_accuracy", "the 2 dogs!", references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "references", "dataset", "expected"),
    [
        ("It says STOP here", ["stop"], "", 1.0),
        ("two\nlines", ["two lines"], "", 1.0),
        ("st op", ["stop"], "", 0.0),
        ("x", ["y", "X"], "", 1.0),
        ("\\frac { a } { b }", ["\\frac{a}{b}"], "HME100k", 1.0),  # blanks do not count
        ("A + b", ["a+b"], "HME100k", 0.0),  # case does
        ("anything", [""], "", 1.0),
        ("ＳＴＯＰ\u3000here", ["stop here"], "", 1.0),  # full-width letters
        ("ＳＴＯＰ", ["STOP"], "HME100k", 0.0),
        ("", ["stop"], "", 0.0),
    ],
)
def test_containment(prediction, references, dataset, expected):
    assert score("containment", prediction, references, dataset=dataset) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [(" Ab  c", ["ab C"], 1.0), ("ab.", ["ab"], 0.0), ("", ["x"], 0.0), ("b", ["a", "B"], 1.0)],
)
def test_exact_match(prediction, references, expected):
    assert score("exact_match", prediction, references) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a b c d e", "a b c d e", 1.0),
        # 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2: the product is 1/5, its fourth root 0.66874
        ("a b c d x", "a b c d e", 0.2**0.25),
        # all n-grams right, length 4 against 5: brevity penalty exp(1 - 5/4)
        ("a b c d", "a b c d e", 0.7788007830714049),
        ("a b", "a b", 1.0),  # order 2 for a reference of two tokens
        ("a x", "a b", 0.0),  # no 2-gram in common
        ("a b x d", "a b c d", 0.0),  # no 3-gram in common, not smoothed
        ("a b c", "a b c d", 0.0),  # no 4-gram at all
        ("", "a b", 0.0),
        ("", "", 1.0),
        ("a", "", 0.0),
        ("ä  ö\nü ß", "ä ö ü ß", 1.0),  # any white space parts tokens
    ],
)
def test_bleu(prediction, reference, expected):
    assert score("bleu", prediction, [reference]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("kitten", ["sitting"], 3 / 7),
        ("abc", ["abc"], 0.0),
        ("", ["abc"], 1.0),
        ("", [""], 0.0),
        ("Abc", ["abc"], 1 / 3),  # case counts
        ("ab", ["xy", "ax"], 0.5),  # the nearest reference
    ],
)
def test_edit_distance(prediction, references, expected):
    assert score("edit_distance", prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("It is at [ 0.1, 0.2,0.3,  1 ].", (0.1, 0.2, 0.3, 1.0)),
        ("[0.1 , 0.2, 0.3, 1]", (0.0, 0.0, 0.0, 0.0)),  # a blank before a comma
        ("[-0.5, 0, 1, 1] or [1, 1, 1, 1]", (-0.5, 0.0, 1.0, 1.0)),
        ("[1, 2, 3] [0, 0, 1, 1]", (0.0, 0.0, 1.0, 1.0)),
        ("0.1, 0.2, 0.3, 0.4", (0.0, 0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_parse_box(text, box):
    assert parse_box(text) == box


def test_gold_box_is_in_fractions_of_the_image():
    # x 10/100, y 30/60, right (10 + 40)/100, bottom (30 + 15)/60
    assert gold_box([10, 30, 40, 15], [100, 60]) == pytest.approx((0.1, 0.5, 0.5, 0.75))


def test_iou():
    # overlap 1 · 2 = 2, union 4 + 4 - 2 = 6
    assert box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert box_iou((1, 1, 0, 0), (0, 0, 1, 1)) == 0  # inside out


def test_grounding():
    row = {"bbox": [0, 0, 50, 100], "image_size": [100, 100]}  # the left half
    # the left three quarters: overlap 0.5, union 0.75, IoU 2/3; centre (0.375, 0.5) is inside
    scores = METRICS["grounding"].function("[0, 0, 0.75, 1]", [], row)
    expected = {"acc@0.1": 1, "acc@0.3": 1, "acc@0.5": 1, "acc@0.7": 0, "acc@0.9": 0, "center_acc": 1}
    assert scores == pytest.approx({"iou": 2 / 3, **expected})
    # the whole image: overlap 0.5, union 1; the centre (0.5, 0.5) lies on the border, which counts
    scores = METRICS["grounding"].function("[0, 0, 1, 1]", [], row)
    assert (scores["iou"], scores["acc@0.5"], scores["center_acc"]) == (0.5, 1, 1)
    # no box counts as [0, 0, 0, 0], whose centre is on this gold box's corner
    scores = METRICS["grounding"].function("left", [], row)
    assert (scores["iou"], scores["acc@0.1"], scores["center_acc"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("A. a dog", "A"),  # begins
        ("I think it is D", "D"),  # ends
        ("A dog. The answer is B because", "A"),  # a beginning is surer than a statement
        ("well, the answer is B, not (C) here", "C"),  # the last letter behind the statement
        ("maybe (B) or C. then", "B"),  # brackets are surer than a full stop
        ("xAx then xDx there", "D"),  # anywhere, the last
        ("a dog", ""),
        ("", ""),
    ],
)
def test_stated_letter(answer, letter):
    assert stated_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("it is B, surely", "B"),
        ("A cat sits here", "B"),  # "A" may be the article; the cat decides
        ("a bird", "C"),
        ("a cat and a bird", ""),
        ("(A) or (B)", "B"),  # two so: the last one stated
    ],
)
def test_inferred_letter(answer, letter):
    assert inferred_letter(answer, {"A": "dog", "B": "Cat", "C": "bird"}) == letter


def record(name, prediction, reference, **row):
    """An answer with its scores by a metric."""
    scores = METRICS[name].function(prediction, [reference], row)
    return {"prediction": prediction, "references": [reference], "row": row, "scores": scores}


def test_pope_counts_yes():
    answers = [("Yes", "yes"), ("yes", "no"), ("no", "yes"), ("No, there is not", "yes"), ("no", "no")]
    scores = METRICS["pope"].totals([record("pope", *answer) for answer in answers])
    # one yes of two is right, one of the two golds that got a word found; the sentence is wrong but no "no"
    expected = {"accuracy": 2 / 5, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "yes_references": 3 / 5}
    assert scores == pytest.approx(expected)
    scores = METRICS["pope_official"].totals([record("pope_official", *answer) for answer in answers])
    # the sentence is a "no" too: precision 1/2, recall 1/3, F1 2 · 1/6 / (5/6)
    assert scores["recall_official"] == pytest.approx(1 / 3) and scores["f1_official"] == pytest.approx(2 / 5)
    assert scores["yes_answers_official"] == pytest.approx(2 / 5)


def test_mme_counts_pairs():
    def pair(category, image, *answers):
        return [
            record("mme", answer, gold, category=category, question_id=image)
            for answer, gold in zip(answers, ("Yes", "No"), strict=True)
        ]

    both, one = pair("count", "1", "Yes.", "no"), pair("count", "2", "y", "yes it is")
    records = [*both, *one, *pair("code_reasoning", "1", "Yes", "No")]
    scores = METRICS["mme"].totals(records)
    # count: accuracy 3/4 and both right of one in two: 125 of 2000 points; code reasoning: 200 of 800
    assert scores["perception"] == pytest.approx(125 / 2000) and scores["cognition"] == pytest.approx(200 / 800)
    assert (scores["acc"], scores["acc_plus"]) == pytest.approx((5 / 6, 2 / 3))
    with pytest.raises(UserError, match="category 'count', image '1': 4 questions; MME asks two"):
        METRICS["mme"].totals([*both, *both])


def test_circular_needs_every_copy():
    options = {"A": "dog", "B": "cat", "C": "nan", "D": "nan"}
    turned = options | {"A": "cat", "B": "dog"}
    records = [
        record("circular", "A", "A", index=7, **options),
        record("circular", "it is the dog", "B", index=1_000_007, **turned),
        record("circular", "A", "A", index=8, **options),
        record("circular", "A", "B", index=1_000_008, **turned),
    ]
    assert METRICS["circular"].totals(records) == {"circular": 1 / 2, "single": 3 / 4}


def test_mmstar_is_the_mean_over_finer_categories():
    rows = [("A", "geometry"), ("B", "geometry"), ("the answer is A", "emotion")]
    records = [record("mmstar", answer, "A", l2_category=category) for answer, category in rows]
    assert METRICS["mmstar"].totals(records) == {"mmstar": 3 / 4}  # (1/2 + 1) / 2
    for answer, right in {"a": 1, "(A)": 1, "Option A": 1, "The answer is a dog": 1, "It is A": 0, "": 0}.items():
        assert score("mmstar_official", answer, ["A"]) == right, answer


@pytest.mark.parametrize(
    ("prediction", "reference", "kind", "expected"),
    [
        ("(B)", "B", "multiple-choice", 1.0),
        ("A or B, I say B now", "B", "multiple-choice", 1.0),  # the last of two
        ("it can only be the big dog", "A", "multiple-choice", 1.0),  # more than five words: an option's text
        ("the dog", "A", "multiple-choice", 0.0),  # names no option: wrong, not guessed
        ("x = 3.14159", "3.14", "open", 1.0),  # two decimals
        ("so it is 1,200 then", "1200", "open", 1.0),
        ("the answer is blue", "Blue", "open", 1.0),
        ("12", "2", "open", 0.0),
        ("about x", "x", "open", 1.0),  # a single letter with a blank beside it
    ],
)
def test_mmmu(prediction, reference, kind, expected):
    options = {"A": "dog", "B": "cat"} if kind == "multiple-choice" else {}
    assert score("mmmu", prediction, [reference], question_type=kind, options=options) == expected


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("letter_first", ["B", "b", " Because", "B. cat"], ["", "(B)", "A"]),
        ("letter_alone", ["B", "b", "B. cat"], ["", "B cat", "b. cat", "(B)"]),
        ("letter_unpunctuated", ["B", "b.", "(B)", "B. cat"], ["", "B cat", "the B"]),
        ("letter_or_text", ["B", "(B)", "it is B."], ["", "A", "cat"]),
        ("unpunctuated_match", ["B", "b!", "-b-"], ["", "b b", "A", "ḃ"]),
    ],
)
def test_letters(name, right, wrong):
    assert [score(name, answer, ["B"]) for answer in right + wrong] == [1.0] * len(right) + [0.0] * len(wrong)


def test_letter_or_text_compares_what_is_no_letter():
    assert score("letter_or_text", "Downhill.", ["downhill"]) == 1 and score("letter_or_text", "up", ["downhill"]) == 0


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("prediction", ["", "%", "[0, 0, 1, 1]", "日本 – ½", "a\n\n b"])
def test_every_metric_gives_its_named_scores_between_0_and_1(name, prediction):
    metric = get_metric(name)
    row = {"bbox": [1, 1, 2, 2], "image_size": [4, 4], "dataset": "x", "question_type": "multiple-choice", "index": 1}
    row |= {
        "options": {"A": "x"},
        "category": "c",
        "question_id": "q",
        "l2_category": "l",
        **dict.fromkeys("ABCD", "x"),
    }
    assert set(metric.needs) <= set(row)
    scores = metric.function(prediction, ["0", "日本"], row)
    answer = {"prediction": prediction, "references": ["0", "日本"], "row": row, "scores": scores}
    totals = metric.totals([answer])
    assert tuple(totals) == metric.scores
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in [*scores.values(), *totals.values()])


def test_no_two_metrics_give_a_score_of_the_same_name():
    names = [name for metric in METRICS.values() for name in metric.scores]
    assert len(names) == len(set(names))


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UserError, match="unknown metric 'anlz'; did you mean 'anls'"):
        get_metric("anlz")
