"""What the result files hold, field by field, with units: one typed dictionary for each kind of record.

origin.py   what figures were measured with: in every result     bench.py       times and memory (`proxyv bench`)
scores.py   answers, a benchmark's and a suite's result          sweep.py       `sweep.json`
profile.py  FLOPs, rows, memory, parameters (`proxyv profile`)   comparison.py  runs compared (`proxyv compare`)
mir.py      modality integration rate (`proxyv mir`)             check.py       a file's content against its type
agreement.py  scores against what they are made of

Rooms that write results and the reports that read them all import these. A type adds nothing at run time: a record is
a plain dictionary, in the order in which the file holds it. "Ready for JSON" means plain values all through.
"""
