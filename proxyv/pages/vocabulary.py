"""The characters and words that pages, questions and answers are made of.

A tokenizer with one token per lowercase word of `QUESTION_WORDS` and one per character of `TEXT_CHARACTERS`
covers every text this package writes.
"""

import re
import string

BAR = "#"
BLANK = " "
# Drawn as printed, except for BAR, which is a solid block.
ALPHABET = string.ascii_uppercase + string.digits + BAR + ":-."

# Single characters of questions, answers and transcripts: brackets and comma stand in box answers only,
# the line break in transcripts and between a text look-up and its question.
TEXT_CHARACTERS = ALPHABET + BLANK + "\n" + "[],"

VALUE_OF = "value of {}"
LARGEST = "largest bar"
SMALLEST = "smallest bar"
WHICH = {"word": "which word", "number": "which number"}
ABOVE = {"word": "word above {}", "number": "number above {}"}
BELOW = {"word": "word below {}", "number": "number below {}"}
TRANSCRIBE = "transcribe"
LOCATE = "locate {}"

TEMPLATES = (
    VALUE_OF,
    LARGEST,
    SMALLEST,
    *WHICH.values(),
    *ABOVE.values(),
    *BELOW.values(),
    TRANSCRIBE,
    LOCATE,
)
QUESTION_WORDS = tuple(sorted({word for template in TEMPLATES for word in re.findall("[a-z]+", template)}))
