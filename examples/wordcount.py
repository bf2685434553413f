"""How often each word occurs.    mr run examples/wordcount.py TEXT... -o OUT

input:
    the cat and the dog
    The End
output:
    and	1
    cat	1
    dog	1
    end	1
    the	3
"""

import mr


@mr.mapper("wc.tokenize")
def tokenize(line: str):
    yield from ((w.lower(), 1) for w in line.split())


@mr.reducer("wc.add", combine=True)
def add(word: str, counts):
    yield word, sum(counts)


job = mr.Job("wordcount", [mr.step(tokenize, add, reduces=8)], input=mr.text(), output=mr.tsv())
