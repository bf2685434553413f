"""The lines that match a pattern, sorted.    mr run examples/grep.py TEXT... -o OUT -- PATTERN

arguments: ca[tr]
input:
    the cat
    a dog
    a car, a cat
output:
    a car, a cat
    the cat
"""

import argparse
import re

import mr

parser = argparse.ArgumentParser(prog="grep.py --", add_help=False)
parser.add_argument("pattern", nargs="?", default="")
parser.add_argument("-i", "--ignore-case", action="store_true")
options = mr.args(parser)
pattern = re.compile(options.pattern, re.IGNORECASE if options.ignore_case else 0)


@mr.mapper("grep.match")
def match(line: str):
    if pattern.search(line):
        yield line, None


job = mr.Job("grep", [mr.step(match, mr.identity, reduces=4)], input=mr.text(), output=mr.text())
