"""A split as examples, encoded on demand or read from the feature store.

An `Examples` is built once per base and prompt, and shared by every arm that trains on it: prompts are tokenised once,
features of the frozen tower come from the store.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import logging
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lab import data
from lab.config import DataDial
from lab.data.faults import BadRecord
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.encoded import Example, TokenizedPrompt
from lab.model.encoding import Encoder
from lab.model.tokenizing import TOGETHER, PromptTokenizer
from lab.model.turns import answers_in
from lab.records import ExampleSize, Medium, Picture, Sample, Source, Split
from lab.training.feature_shards import Names, image_key
from lab.training.features import FeatureStore
from lab.training.ordering import Blocks, places
from lab.training.prompt_ids import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence


log = logging.getLogger(__name__)
LOOKED_AT = 16
"""Examples whose length is looked at, to know what memory a batch takes."""
FIRST_LOOK = 1000
"""Examples that are looked at, evenly over a split that is too large to look at all of them before training (`lab.records.Split`)."""


@dataclass(frozen=True)
class Shown:
    """What a split's images are to the language model. digest: of all of them in order, their features and reduced tokens.

    most: tokens of the largest image before reduction. untouched: no image is made fewer tokens.
    """

    digest: str
    most: int
    untouched: bool


class Examples(Dataset[Example]):
    """A split, encoded on demand. With a store that has been filled, images cost nothing but a read. sources: as of `Splits`.

    max_length: most tokens of a conversation, which loses its last turns until it fits; None: none is shortened. cut: answers so lost, by
    place, of the samples that `unfit` has looked at.
    """

    def __init__(self, split: Split, encoder: Encoder, sources: tuple[Source, ...] = (), max_length: int | None = None) -> None:
        self.split = split
        self.sources = sources
        self.encoder = encoder
        self.max_length = max_length
        self.cut: dict[int, int] = {}
        self.store: FeatureStore | None = None
        self.keys = np.empty((0, 32), dtype=np.uint8)
        self.key_ends = np.zeros(1, dtype=np.int64)
        self.texts: Texts | None = None
        self.many = bool(getattr(split, "digest", ""))

    def __len__(self) -> int:
        return len(self.split)

    @property
    def alike(self) -> int:
        """The number of first samples that are answered in one kind."""
        return len(self)

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch of training."""
        return sum(places(self.sources)) if self.sources else len(self)

    @property
    def first_look(self) -> Sequence[int]:
        """The places that are looked at before training: all, or `FIRST_LOOK` of many."""
        return np.linspace(0, len(self) - 1, FIRST_LOOK).astype(int).tolist() if self.many else range(len(self))

    def sample(self, index: int, read: bool = False) -> Sample:
        """A sample as it is learned from. read: with its images, else as many without their bytes."""
        sample = self.split[index] if read else self.split.index(index)
        return sample if self.max_length is None else self.encoder.shortened(sample, self.max_length)

    def unfit(self, learned: bool = False, max_length: int | None = None, every: bool = False) -> dict[int, BadRecord]:
        """What the encoder refuses of the split, by place. Prompts are tokenised on the way, and kept if there is nothing and they are not many.

        learned: the split is learned from. max_length: most tokens of a prompt with its answer. every: all of many are looked at too.
        """
        refused: dict[int, BadRecord] = {}
        places = range(len(self)) if every else self.first_look

        def fitting() -> Iterator[TokenizedPrompt]:
            tokenizer = PromptTokenizer(self.encoder)
            for first in range(0, len(places), TOGETHER):
                looked = {i: self.looked_at(i, learned) for i in places[first : first + TOGETHER]}
                refused.update({i: one for i, one in looked.items() if isinstance(one, BadRecord)})
                fine = {i: one for i, one in looked.items() if not isinstance(one, BadRecord)}
                for (i, (sample, grids)), text in zip(fine.items(), tokenizer.texts([sample for sample, _ in fine.values()]), strict=True):
                    try:
                        yield self.checked(sample, grids, text, max_length)
                    except BadRecord as fault:
                        refused[i] = fault

        texts = Texts(fitting() if not every else ())
        collections.deque(fitting() if every else (), maxlen=0)
        self.texts = None if refused or self.many else texts
        return dict(sorted(refused.items()))

    def looked_at(self, index: int, learned: bool) -> tuple[Sample, list[tuple[int, int, int]]] | BadRecord:
        """A sample as it is learned from and the grids of its images, or why it cannot be taken. Answers cut off are counted."""
        whole = self.split.index(index)
        if any(isinstance(medium, Picture) and medium.size is None for medium in whole.images):
            whole = self.split[index]  # to know their sizes
        sample = whole
        try:
            grids = [self.encoder.check(picture) for picture in whole.images]
            if self.max_length is not None:
                sample = self.encoder.shortened(whole, self.max_length)
                if lost := answers_in(whole) - answers_in(sample):
                    self.cut[index] = lost
            if learned:
                self.encoder.check_learnable(sample)
        except BadRecord as fault:
            return fault
        return sample, grids

    def checked(
        self, sample: Sample, grids: Sequence[tuple[int, int, int]], text: TokenizedPrompt | BadRecord, max_length: int | None
    ) -> TokenizedPrompt:
        """A prompt that is no longer than `data.max_length`. Raises the `BadRecord` that it is, or one for its length."""
        if isinstance(text, BadRecord):
            raise text
        if max_length is not None:
            self.encoder.check_length(sample.sample_id, text, [grids[place] for place in text.image_order], max_length)
        return text

    @property
    def leaves(self) -> tuple[Examples, ...]:
        """Those that hold images and prompts of their own: this, or those of a mixture's parts."""
        return (self,)

    def prepare(self, store: FeatureStore | None, vlm: Vlm, report: Report = silent) -> int:
        """`prepare_all` of this split alone."""
        return prepare_all([self], store, vlm, report)

    def name_images(self) -> None:
        """Learn the names of all images."""
        keys, ends = bytearray(), array("q", [0])
        for i in range(len(self)):
            keys += b"".join(image_key(picture, self.encoder.clip_settings) for picture in self.split[i].images)
            ends.append(len(keys) // 32)
        self.keys, self.key_ends = np.frombuffer(keys, np.uint8).reshape(-1, 32), np.array(ends)

    def image(self, position: int) -> Medium:
        """The image whose name stands at a position of `keys`."""
        sample = int(self.key_ends.searchsorted(position, side="right")) - 1
        return self.split[sample].images[position - int(self.key_ends[sample])]

    def tokenized(self) -> Iterator[TokenizedPrompt]:
        """The prompts of all samples. Raises `BadRecord` for one that is refused."""
        tokenizer = PromptTokenizer(self.encoder)
        for first in range(0, len(self), TOGETHER):
            samples = [self.sample(i) for i in range(first, min(first + TOGETHER, len(self)))]
            for sample, text in zip(samples, tokenizer.texts(samples), strict=True):
                yield self.checked(sample, (), text, None)

    @cached_property
    def longest(self) -> ExampleSize:
        """The size of the longest of the first `LOOKED_AT` examples, with its answer. Arms that share examples look once."""
        found = [self.encoder.size(self[i], answered=True) for i in range(min(LOOKED_AT, len(self)))]
        return max(found, key=lambda shape: (shape.length, shape.grids))

    @cached_property
    def asked(self) -> str:
        """Digest of the samples and of their prompts as tokenised: ids, answers, order of images. Of many, the prompts of `first_look`."""
        texts = self.texts or Texts(self.text(i) for i in self.first_look)
        digest = hashlib.sha256(data.fingerprint(self.split).encode())
        learned = (texts.learned, texts.learned_ends) if len(texts.learned) else ()
        for values in (texts.steps, texts.ids, texts.ends, texts.orders, texts.order_ends, *learned):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @cached_property
    def shown(self) -> Shown | None:
        """What becomes of the images, known without reading them anew; None where no features are kept."""
        if self.store is None:
            return None
        digest, most, untouched = hashlib.sha256(), 0, True
        known: dict[bytes, bytes] = {}
        for start, end in itertools.pairwise(self.key_ends.tolist()):
            for key in (row.tobytes() for row in self.keys[start:end]):
                if key not in known:
                    crc, grid = self.store.sum_of(key)
                    cells = math.prod(self.encoder.merged(grid))
                    how = self.encoder.reduces(grid)
                    most, untouched = max(most, cells), untouched and how is None
                    known[key] = json.dumps([crc, grid, how, self.encoder.tokens(grid)]).encode()
                digest.update(known[key])
            digest.update(b";")
        return Shown(digest.hexdigest(), most, untouched)

    def image_keys(self, index: int) -> tuple[bytes, ...]:
        """`image_key` of each image of a sample."""
        if self.store is None:
            return tuple(image_key(picture, self.encoder.clip_settings) for picture in self.split[index].images)
        return tuple(key.tobytes() for key in self.keys[self.key_ends[index] : self.key_ends[index + 1]])

    def pictured(self, index: int) -> tuple[bytes | Medium, ...]:
        """What names the images of a sample: their contents, or of many, which are not read before training, where they lie."""
        return self.split.index(index).images if self.many else self.image_keys(index)

    @cached_property
    def pictures(self) -> torch.Tensor:
        """int64 [rows]: equal for samples that show the same images; one without any has a number of its own."""
        known: dict[Any, int] = {}
        return torch.tensor([known.setdefault(self.pictured(i) or i, len(known)) for i in range(len(self))], dtype=torch.int64)

    def blocks(self, dial: DataDial) -> Blocks | None:
        """What `data.order` shuffles; None: samples."""
        return Blocks(self.pictures, dial.questions_per_image) if dial.order == "by_image" else None

    def text(self, index: int) -> TokenizedPrompt:
        """The tokenised prompt of a sample."""
        return self.encoder.text(self.sample(index)) if self.texts is None else self.texts[index]

    def targets(self, index: int) -> int:
        """How many tokens are learned of a sample."""
        return self.text(index).targets

    def __getitem__(self, index: int) -> Example:
        if self.store is None:
            return self.encoder.example(self.sample(index, read=True))
        text = self.text(index)
        keys = self.image_keys(index)
        shown = [self.store.get(keys[i]) for i in text.image_order]
        grids = tuple(grid for _, grid in shown)
        return Example(self.split.sample_ids[index], text, grids, features=tuple(feature for feature, _ in shown))


def prepare_all(
    made: Iterable[Examples], store: FeatureStore | None, vlm: Vlm, report: Report = silent, beside: Callable[[], None] | None = None
) -> int:
    """Tokenise every prompt of some splits and, with a store, compute what features it lacks; return how many images that were.

    Of a split of many samples nothing is made before training. beside: as of `FeatureStore.fill`.
    """
    made, computed = list(made), 0
    leaves = [leaf for examples in made for leaf in examples.leaves]
    for leaf in (leaf for leaf in leaves if leaf.many):
        log.info("%d samples are more than are prepared before training: prompts and features are made as each is learned from", len(leaf))
    held = [leaf for leaf in leaves if not leaf.many]
    if store is not None and held:
        for leaf in held:
            leaf.name_images()
        ends = np.cumsum([len(leaf.keys) for leaf in held])
        names = Names(np.concatenate([leaf.keys for leaf in held]))

        def read(key: bytes) -> Medium:
            position = names.find(key)
            assert position is not None
            number = int(ends.searchsorted(position, side="right"))
            return held[number].image(position - int(ends[number]) + len(held[number].keys))

        computed = store.fill(names, read, vlm, held[0].encoder, report, beside)
    for examples in (*held, *(examples for examples in made if examples.leaves != (examples,))):
        examples.store = store
    for leaf in (leaf for leaf in held if leaf.texts is None):
        leaf.texts = Texts(leaf.tokenized())
    return computed
