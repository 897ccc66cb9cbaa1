"""Reports: one table in four forms, charts as inline SVG, one self-contained page.

`table` and `statistics` need only the standard library (and `rich` to print), `plots`
needs matplotlib, which comes with the `report` extra. Both are imported where they are
used, so that importing this package costs nothing.
"""
