"""Which documents hold each word.    mr run examples/inverted_index.py DOCUMENTS... -o OUT

A line is: document TAB text.

input:
    d1	the cat
    d2	the dog, the cat
output:
    cat	["d1","d2"]
    dog	["d2"]
    the	["d1","d2"]
"""

import re

import mr

WORD = re.compile(r"\w+")


@mr.mapper("index.words")
def words(document: str, text: str):
    yield from ((word, document) for word in set(WORD.findall(text.lower())))


@mr.reducer("index.postings")
def postings(word: str, documents):
    yield word, sorted(set(documents))


job = mr.Job("inverted_index", [mr.step(words, postings)], input=mr.kv(), output=mr.tsv())
