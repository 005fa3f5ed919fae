"""``bdbench scan``: is a set of images poisoned? One job a file.

``given`` makes a listing of whatever the user has; ``reading`` decodes it to one size and tells what was odd, with
``likeness`` for copies; ``foresight`` says before work what it will take; ``detecting`` runs detectors; ``verdict``
makes one sentence of what they say; ``groups`` looks at what was found; ``outcome`` is all of it, which ``files`` and
``page`` write and ``applying`` acts on; ``front`` puts these together.
"""
