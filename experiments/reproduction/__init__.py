"""What would fill the papers' tables (``tables``, ``plan``), where and at what cost (``here``, ``cost``), and whether a
run repeats itself (``identical``). No flags: ``experiments.reproduce`` is the program."""
