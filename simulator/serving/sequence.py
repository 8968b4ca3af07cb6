"""One request while an engine works on it."""

from __future__ import annotations

NOT_DECODING = -1


class Sequence:
    """Progress of one request.

    While a sequence decodes, its counters stand still: all decoding sequences of a scheduler
    advance together, one token a step, so ``offset`` plus the scheduler's count of decode steps
    tells how many tokens are stored. That is what makes a step cost O(1) whatever the batch.

    Attributes:
        index: row of the request.
        prompt, output: its lengths, tokens.
        computed: tokens with keys and values in the cache; not maintained while it decodes.
        generated: output tokens so far; not maintained while it decodes.
        target: tokens to compute before the next token comes out (prompt and, after a preemption,
            what had been generated).
        offset: stored tokens minus the scheduler's decode count, while it decodes.
        finish_at: decode count at which the last token comes out, or NOT_DECODING.
        blocks: KV blocks taken so far; not maintained while it decodes and grows.
        fixed: those of them that do not depend on the context (local-attention layers).
        highest: most tokens it ever had computed (what is below is recomputation).
        cached: prompt tokens found in the prefix cache on first admission, -1 before that.
        preemptions: how often it lost its blocks.
        order: ascending number of its last admission.
        streams: (stream, end) of the shared texts its prompt is made of, or None.
        continues: its output continues the last stream.
        chain: keys of its leading blocks, as far as they were needed; None before.
        keys: keys under which its blocks are referenced in the prefix index, from block 0; None
            stands for a block that is private because an equal one was registered before. No list
            is the same as an empty one.
        last_token_s: when its last token came out, kept by the clock where it cannot be derived.
        rank, ticket, latest: its place in a queue that is not first come, first served: lowest rank
            first, then lowest ticket; and when it must start to make its deadline, clock seconds.
            Not set under first come, first served.
        answer_at: which of its output tokens is the first one of the answer, where thinking comes
            before it and somebody wants to know when it comes; 0 where nobody does.
        adapter: number of its LoRA adapter, -1 for none.
        follows: another answer to the same prompt came right before it.
    """

    __slots__ = (
        "adapter",
        "answer_at",
        "blocks",
        "cached",
        "chain",
        "computed",
        "continues",
        "finish_at",
        "fixed",
        "follows",
        "generated",
        "highest",
        "index",
        "keys",
        "last_token_s",
        "latest",
        "offset",
        "order",
        "output",
        "preemptions",
        "prompt",
        "rank",
        "streams",
        "target",
        "ticket",
    )

    rank: float
    ticket: int
    latest: float

    def __init__(
        self,
        index: int,
        prompt: int,
        output: int,
        streams: tuple[tuple[int, int], ...] | None = None,
        continues: bool = False,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.output = output
        self.streams = streams
        self.continues = continues
        self.computed = 0
        self.generated = 0
        self.target = prompt
        self.offset = 0
        self.finish_at = NOT_DECODING
        self.blocks = 0
        self.fixed = 0
        self.highest = 0
        self.cached = -1
        self.preemptions = 0
        self.order = -1
        self.chain: list[tuple[int, int]] | None = None
        self.keys: list[tuple[int, int] | None] | None = None
        self.last_token_s = 0.0
        self.answer_at = 0
        self.follows = False
        self.adapter = -1

    @property
    def most_tokens(self) -> int:
        """Tokens stored when it ends: the last output token is never computed."""
        return self.prompt + self.output - 1

    def __repr__(self) -> str:
        return f"Sequence({self.index}, {self.prompt}+{self.output}, computed={self.computed})"
