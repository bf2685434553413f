"""Which pages link to each page.    mr run examples/reverse_links.py LINKS... -o OUT

A line is: source TAB target.

input:
    home	news
    blog	news
    home	blog
    blog	news
output:
    blog	["home"]
    news	["blog","home"]
"""

import mr


@mr.mapper("links.turn")
def turn(source: str, target: str):
    yield target, source


@mr.reducer("links.collect")
def collect(target: str, sources):
    yield target, sorted(set(sources))


job = mr.Job("reverse_links", [mr.step(turn, collect)], input=mr.kv(), output=mr.tsv())
