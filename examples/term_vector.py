"""The most frequent words of each host.    mr run examples/term_vector.py PAGES.jsonl... -o OUT

A record is a JSON object with "url" and "text". Words that occur once on a host are left out.

input:
    {"url": "http://a.example/1", "text": "red fish blue fish"}
    {"url": "http://b.example/", "text": "red red"}
    {"url": "http://a.example/2", "text": "One fish, red fish"}
output:
    a.example	[["fish",4],["red",2]]
    b.example	[["red",2]]
"""

from collections import Counter
from urllib.parse import urlsplit

import mr

TOP = 10


@mr.mapper("terms.count")
def count(page: dict):
    words = (word.strip(".,;:!?").lower() for word in page["text"].split())
    yield urlsplit(page["url"]).netloc, dict(Counter(words))


@mr.combiner("terms.add")
def add(host: str, vectors):
    total = Counter()
    for vector in vectors:
        total.update(vector)
    yield host, dict(total)


@mr.reducer("terms.top")
def top(host: str, vectors):
    ((_, total),) = add(host, vectors)
    ranked = sorted(((n, word) for word, n in total.items() if n > 1), key=lambda one: (-one[0], one[1]))
    yield host, [[word, n] for n, word in ranked[:TOP]]


job = mr.Job("term_vector", [mr.step(count, top, combiner=add)], input=mr.jsonl(), output=mr.tsv())
