"""Some drawings of a validation run, for people to look at."""

from got_core.pictures import Tile
from got_core.types import Batch, Drawing


class TileCollector:
    """Keeps up to `limit` drawings, taken evenly from the batches that are expected."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"{limit} drawings to show: it must be at least 1")
        self.limit = limit
        self.tiles: list[Tile] = []
        self._per_batch = limit

    def start(self, batches: int) -> None:
        """Forget what was kept, and expect so many batches."""
        self.tiles = []
        self._per_batch = max(1, -(-self.limit // max(1, batches)))

    def add(self, drawing: Drawing, batch: Batch) -> None:
        """Keep the batch's share."""
        number = min(self._per_batch, self.limit - len(self.tiles), len(batch))
        for place in range(number):
            self.tiles.append(
                Tile(
                    image=drawing.images[place].cpu(),
                    chain=drawing.chains[place],
                    prompt=batch.prompts[place],
                    source=batch.source[place].cpu() if bool(batch.has_source[place]) else None,
                )
            )
