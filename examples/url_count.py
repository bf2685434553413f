"""How often each URL was asked for, from web server logs.    mr run examples/url_count.py access.log... -o OUT

Common or combined log format; other lines are counted and left out.

input:
    10.0.0.1 - - [01/Jul/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 12
    10.0.0.2 - - [01/Jul/2026:10:00:01 +0000] "GET /b?x=1 HTTP/1.1" 200 7
    no log line
    10.0.0.1 - - [01/Jul/2026:10:00:02 +0000] "POST /a HTTP/1.1" 302 0
output:
    /a	2
    /b	1
"""

import re

import mr

REQUEST = re.compile(r'"[A-Z]+ ([^ ?"]+)[^"]*"')


@mr.mapper("urls.request")
def request(line: str):
    found = REQUEST.search(line)
    if found:
        yield found[1], 1
    else:
        mr.ctx().count("lines without a request")


@mr.reducer("urls.add", combine=True)
def add(url: str, counts):
    yield url, sum(counts)


job = mr.Job("url_count", [mr.step(request, add)], input=mr.text(), output=mr.tsv())
