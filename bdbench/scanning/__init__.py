"""``bdbench scan``: is a set of images poisoned? One job a file.

``given`` makes a listing of whatever the user has; ``reading`` decodes it to one size, with ``likeness`` for copies;
``telling`` says what was read; ``foresight`` says before work what it will take; ``laboratory`` is where detectors
work, and ``detecting`` lets them; ``verdict`` makes one sentence of what they say; ``groups`` looks at what was marked;
``outcome`` is all of it, which ``files`` and ``page`` write and ``applying`` acts on; ``front`` puts these together.
"""
