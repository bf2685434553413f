"""Lowest and highest temperature of each station.    mr run examples/minmax_temperature.py READINGS.csv... -o OUT

A row is: station, date, temperature; a row without a temperature is left out.

input:
    oslo,2026-01-01,-3.5
    rome,2026-01-01,9.0
    oslo,2026-07-01,21.25
    rome,2026-07-01,
output:
    oslo	[-3.5,21.25]
    rome	[9.0,9.0]
"""

import mr


@mr.mapper("temperature.read")
def read(row: list):
    station, _, temperature = row
    if temperature:
        yield station, (float(temperature), float(temperature))


@mr.reducer("temperature.range", combine=True)
def extremes(station: str, ranges):
    lowest, highest = float("inf"), float("-inf")
    for low, high in ranges:
        lowest, highest = min(lowest, low), max(highest, high)
    yield station, (lowest, highest)


job = mr.Job("minmax_temperature", [mr.step(read, extremes)], input=mr.csv(), output=mr.tsv())
