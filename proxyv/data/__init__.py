"""From files to batches. In the order of the flow:

readers.py        files of one data set → samples (texts and where the images lie)
records.py        what a record must be to become a sample
images.py         opening images that may be missing or broken
encoding.py       a conversation and its images → token ids, labels, crops
objectives/       what a stage learns: what a sample becomes, and which module is trained on it
outcomes.py       what can keep a sample from being used, counted
training_data.py  a stage's samples with its policies for bad, long or unsupervised ones
collate.py        samples → batches
order.py          which sample comes when
checks.py show.py what `proxyv check-data` and `proxyv show-sample` print
"""

from proxyv.data.checks import check_data
from proxyv.data.show import show_sample

__all__ = ["check_data", "show_sample"]
