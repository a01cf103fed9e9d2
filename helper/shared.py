"""What several runs of one process have in common, made once."""

from collections import OrderedDict


class Shared:
    """Keeps the `limit` values that were asked for last, so that a long series of runs does not
    fill the memory.
    """

    def __init__(self, limit=8):
        self.limit, self._kept = limit, OrderedDict()

    def once(self, key, make):
        """Returns `make()`, or what it returned when it was called for an equal `key`, which names
        all it depends on.

        The value is everyone's: nobody may change it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)
        return self._kept[key]
