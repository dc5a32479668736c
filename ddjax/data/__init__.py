"""The data room: the only place that opens image files. SPEC in, three splits of uint8 out."""

from ddjax.data.base import Source
from ddjax.data.cards import CARDS, Card, card
from ddjax.data.dataset import Dataset, open_data
from ddjax.data.feed import Feed
from ddjax.data.fetch import fetch, locate
from ddjax.data.sources import Arrays, open_source
from ddjax.data.split import Split

__all__ = [
    "CARDS",
    "Arrays",
    "Card",
    "Dataset",
    "Feed",
    "Source",
    "Split",
    "card",
    "fetch",
    "locate",
    "open_data",
    "open_source",
]
