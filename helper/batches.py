"""Batches of generated images: their size, and what they consist of."""

from helper.image_size import is_small


def default_batch_size(image_size, device):
    """A batch that fills a GPU, or the caches of a CPU."""
    if device.type == "cpu":
        return 32
    return 256 if is_small(image_size) else 64


def padded_batches(items, batch_size):
    """Cuts a list into batches of equal length; a short last one is padded with its last item.

    The shape of a batch changes how a network rounds: images of padded batches are reproducible.
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    return [batch + batch[-1:] * (batch_size - len(batch)) for batch in batches]
