"""What answers say: sentences about nothing, cut into words that are one token each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emulator.tokens import Tokenizer
from simulator.errors import UserError

_SENTENCES = """
Morning light fell on the water, and the small boats went out. After rain the garden smells of
earth and mint. Bread needs flour, water, salt and a little time. Our train was late, but nobody at
the station minded. Every map leaves out most of what is there. Some birds stay all winter and sing
on cold days. Water runs down the hill and turns the old wheel. People met at the market to sell
fruit and to talk. Long roads seem short when the talk is good. Good tools last, and dull ones cost
time. Kids drew chalk lines on the street and played. Most plans change when the first day
comes. When the wind turned, they took down the tent. Under the bridge the river is deep and slow.
Before noon the shop had sold all of its cakes. Once a year the town paints its doors green. Two
friends built a table out of an old door. Nobody knew who had left the lamp on. Paper boats do not
go far, but they go. Snow fell in the night and made the city quiet. Her letter came by post and
took nine days. Music from the open window filled the yard. There is a path behind the house that
leads to the lake. Many small steps make a long walk. If the door is open, you may come in. Cold
tea is fine on a hot day. Green apples are sharp, red ones are sweet. An hour later the rain had
stopped. From the top you can see both sides of the valley. Only one of the keys fits this lock. No
two leaves on a tree are the same. Time goes fast when there is work to do. With a sharp knife the
job is half done. We count the stars until the clouds come back. It takes a while to learn a new
game. Last week the bakery opened on the corner. This road goes by the mill and then to the sea.
Down by the harbor the nets hang out to dry. They kept the books in a dry place. By night the hills
look like dark waves. His coat was old, yet it kept him warm. Then the bell rang and the room was
empty. In spring the fields are full of water. At the end of the street there is a blue gate. For
the soup you need beans, leeks and luck. As the fog rose, the far shore came into view. Here
the path is steep, so take your time. She read the note twice and put it away. All of the chairs
were taken by six. What is left of the wall is covered in moss. While the kettle sang, we set the
table. New paint makes the old fence look proud. Much of it must wait until the frost is over. Not
every riddle needs an answer today. Three cats sleep on the warm stones. Where the river bends
there is a sandy beach. How the clock was fixed is still a secret. Near the school a man sells
roasted nuts. On market days the square is full of noise. To find the well, follow the sound of
water. Over the years the tree grew taller than the house. Even a short break can help. Though the
shop is small, it has what you need. Since then the boat has had a new name. Old stones hold the
heat of the sun. Each room has a view of the sea.
"""
"""Own words, none of more than seven letters, no line breaks, nothing that looks like markup."""

_LEAST = 64
"""Tokens below which the usual sentences are not enough."""

_MOST_WORDS = 512
_MOST_TRIED = 20_000
_WORDS_A_SENTENCE = 8

Unit = tuple[str, int]


class Filler:
    """Sentences in which each piece is one token of a tokenizer, and which the tokenizer cuts into
    these pieces again. So a client that sends an answer back with the next turn of a conversation
    sends the same tokens.

    Args:
        tokenizer: that of the prompts.

    Raises:
        UserError: its vocabulary has no words that answers could be written with.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._units = _Units(tokenizer)
        self._sentences = [s for s in map(self._sentence, _usual()) if s is not None]
        if sum(len(pieces) for pieces, _ in self._sentences) < _LEAST:
            self._sentences = self._from_vocabulary(tokenizer.words())
        if not self._sentences:
            raise UserError(
                "has no words that are one token each, of which answers could be made",
                where=f"tokenizer {tokenizer.name}",
                hint="give the tokenizer of a language model, or none",
            )
        # The first word of a text may be another token than the same word behind a space.
        self._openings = [self._opening(pieces) for pieces, _ in self._sentences]

    def _sentence(self, words: list[str]) -> tuple[list[str], list[int]] | None:
        """Pieces and tokens of a sentence behind another one, of those words that are one token."""
        units: list[Unit] = []
        for word in words:
            unit = self._units.behind(word)
            if unit is None or (not units and self._units.first(word.lstrip()) is None):
                continue
            # Marks stand behind words.
            if word.startswith(" ") or (units and units[-1][0].startswith(" ")):
                units.append(unit)
        if not units:
            return None
        pieces, tokens = zip(*units, strict=True)
        if not self._units.cuts("".join(pieces), tokens):
            return None
        return list(pieces), list(tokens)

    def _opening(self, pieces: list[str]) -> Unit:
        unit = self._units.first(pieces[0].lstrip())
        assert unit is not None
        return unit

    def _from_vocabulary(self, words: list[str]) -> list[tuple[list[str], list[int]]]:
        known = []
        for word in words[:_MOST_TRIED]:
            if self._units.behind(f" {word}") and self._units.first(word):
                known.append(f" {word}")
                if len(known) == _MOST_WORDS:
                    break
        starts = range(0, len(known), _WORDS_A_SENTENCE)
        parts = (known[at : at + _WORDS_A_SENTENCE] for at in starts)
        return [s for s in map(self._sentence, parts) if s is not None]

    def write(
        self, count: int, begin: int, chance: int, *, behind: bool
    ) -> tuple[list[str], list[int]]:
        """The pieces and tokens of a text.

        Args:
            count: how many, at least 0.
            begin: chooses the first two sentences; those of neighbors below the square of the
                number of sentences differ.
            chance: number below 2⁶⁴ that chooses all others, the same ones whatever ``count``.
            behind: it goes on from a text, so it begins with a space.
        """
        sentences, number = self._sentences, len(self._sentences)
        first = begin % number
        pieces, tokens = sentences[first][0].copy(), sentences[first][1].copy()
        if not behind:
            pieces[0], tokens[0] = self._openings[first]
        at = (first + 1 + begin // number) % number
        state = chance & 0x7FFFFFFF
        while len(pieces) < count:
            pieces += sentences[at][0]
            tokens += sentences[at][1]
            # A linear congruential generator (Knuth, TAOCP 2, 3.2.1), of which the high bits count.
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            at = (state >> 12) % number
        return pieces[:count], tokens[:count]


class _Units:
    """Words and marks that are one token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode, self._piece = tokenizer.encode, tokenizer.piece
        self._anchor = "the"
        self._before = self._encode(self._anchor)

    def behind(self, piece: str) -> Unit | None:
        """A piece behind a word."""
        tokens = self._encode(self._anchor + piece)
        if tokens[:-1] != self._before:
            return None
        return self._unit(piece, tokens[-1])

    def cuts(self, text: str, tokens: Sequence[int]) -> bool:
        """Whether these are the tokens of a text behind a word."""
        return self._encode(self._anchor + text) == [*self._before, *tokens]

    def first(self, word: str) -> Unit | None:
        """A word at the beginning of a text."""
        tokens = self._encode(word)
        return self._unit(word, tokens[0]) if len(tokens) == 1 else None

    def _unit(self, piece: str, token: int) -> Unit | None:
        """None if the token stands for all that the vocabulary does not know."""
        same = self._piece(token).strip().casefold() == piece.strip().casefold()
        return (piece, token) if same else None


def _usual() -> Iterator[list[str]]:
    """The pieces of each sentence."""
    sentence: list[str] = []
    for word in _SENTENCES.split():
        bare = word.rstrip(".,")
        sentence.append(f" {bare}")
        sentence += word[len(bare) :]
        if word.endswith("."):
            yield sentence
            sentence = []
