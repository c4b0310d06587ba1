"""Every pair of options, run: `make grid`. A row of the grid is one command; it finishes and is verified, or is refused early.

    dimensions.py  what can be chosen, read from conf/ and from the schema, and which choices no model can have together
    rows.py        rows that hold every pair of choices, in an order drawn from a seed
    drawing.py     the checkpoints and data sets that the rows use, made on the spot
    commands.py    one row through `lab.train`'s own door, and its verdict
    judging.py     whether what a finished run reports is what its files say
    workers.py     processes that run rows and are replaced when they die
    finished_pairs.json  the pairs that finished at commit 662f32b, none of which may be refused
"""
