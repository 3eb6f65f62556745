"""Greedy decoding that can only write replies of a template's form.

A template is a sequence of literal texts and numbers. It becomes a small automaton over bytes; a token is
allowed where the automaton accepts every one of its bytes, so that tokens which straddle fields (" -" or ":-"
of the Qwen tokenizers) stay possible and the model keeps to the tokens that it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from vlm_server.tasks import Number

Arcs = dict[int, int]  # byte or token -> next state
DONE = 0  # the state in which the reply is complete


def automaton(fields: Sequence[str | Number]) -> tuple[list[Arcs], int]:
    """Smallest byte automaton of a template's replies.

    Args:
        fields: literal texts and numbers in [-1, 1] in turn. A number is written like "-0.35", with exactly
            its decimals, and zero without a sign.

    Returns:
        (arcs of each state over bytes, the start state); ``DONE`` has none.
    """
    states: list[Arcs] = [{}]
    known: dict[tuple, int] = {}

    def state(arcs: Arcs) -> int:
        key = tuple(sorted(arcs.items()))
        if key not in known:
            known[key] = len(states)
            states.append(arcs)
        return known[key]

    def words(suffixes: list[bytes], after: int) -> int:
        if not suffixes[0]:
            return after
        groups: dict[int, list[bytes]] = {}
        for suffix in suffixes:
            groups.setdefault(suffix[0], []).append(suffix[1:])
        return state({byte: words(rest, after) for byte, rest in groups.items()})

    start = DONE
    for field in reversed(fields):
        start = words([field.encode()] if isinstance(field, str) else _numerals(field.decimals), start)
    return states, start


def _numerals(decimals: int) -> list[bytes]:
    unit = 10**decimals
    return [f"{i / unit:.{decimals}f}".encode() for i in range(-unit, unit + 1)]


class Vocabulary:
    """The bytes of every token of a tokenizer, as a trie; built once per model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Raises:
        ValueError: neither a byte-level BPE (Qwen) nor one with word signs and byte fallback (Llama).
        """
        tokens, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
        self.byte_level = "Ġ" in tokens
        if not self.byte_level and "▁" not in tokens:
            raise ValueError("constrained decoding needs a byte-level BPE or a SentencePiece-like tokenizer")
        read = _byte_level_reader() if self.byte_level else _word_sign_bytes
        self.end = tokenizer.eos_token_id
        self.bytes: dict[int, bytes] = {}
        self.trie: dict = {}  # byte -> subtrie; -1 -> ids of the tokens that end here
        for token, ident in tokens.items():
            data = None if ident in special else read(token)
            if data:
                self.bytes[ident] = data
                node = self.trie
                for byte in data:
                    node = node.setdefault(byte, {})
                node.setdefault(-1, []).append(ident)


class Constraint:
    """One template over one vocabulary. Token arcs of a state are worked out when it is first reached."""

    def __init__(self, vocabulary: Vocabulary, fields: Sequence[str | Number]):
        self._vocabulary = vocabulary
        self._states, self.start = automaton(fields)
        if not vocabulary.byte_level:
            # SentencePiece marks a reply's first word with a space that decoding strips again.
            self._states.append(self._states[self.start] | {ord(" "): self.start})
            self.start = len(self._states) - 1
        # Every token has at least one byte, so that so many tokens complete any reply (one for a word sign).
        self.max_tokens = _longest(fields) + (not vocabulary.byte_level)
        self._arcs: dict[int, Arcs] = {}
        self._masks: dict[int, torch.Tensor] = {}

    def arcs(self, state: int) -> Arcs:
        """token -> next state, for every token that may be written in ``state``."""
        if state not in self._arcs:
            arcs: Arcs = {self._vocabulary.end: DONE} if state == DONE else {}
            waiting = [] if state == DONE else [(self._vocabulary.trie, state)]
            while waiting:
                node, at = waiting.pop()
                arcs.update((ident, at) for ident in node.get(-1, ()))
                waiting += [(node[byte], to) for byte, to in self._states[at].items() if byte in node]
            self._arcs[state] = arcs
        return self._arcs[state]

    def mask(self, state: int, scores: torch.Tensor) -> torch.Tensor:
        """[V] of ``scores``' kind [B,V]: 0 for the tokens of ``arcs``, -inf for all others.

        V is the model's, which may be wider than the tokenizer.
        """
        if state not in self._masks:
            mask = torch.full_like(scores[0], float("-inf"))
            mask[list(self.arcs(state))] = 0.0
            self._masks[state] = mask
        return self._masks[state]


class TemplateProcessor(LogitsProcessor):
    """Lets one ``generate`` call write nothing but replies of the template's form."""

    def __init__(self, constraint: Constraint, rows: int):
        self._constraint = constraint
        self._states = [constraint.start] * rows
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` float [B,V] -> the same with -inf for every token that is not allowed next."""
        if self._begun:
            newest = input_ids[:, -1].tolist()
            self._states = [
                self._next(state, token) for state, token in zip(self._states, newest, strict=True)
            ]
        self._begun = True
        return scores + torch.stack([self._constraint.mask(state, scores) for state in self._states])

    def complete(self, tokens: list[int]) -> bool:
        """Whether every row's reply is complete with its newest token; ``tokens`` [B]."""
        return all(
            self._next(state, token) == DONE for state, token in zip(self._states, tokens, strict=True)
        )

    def _next(self, state: int, token: int) -> int:
        return DONE if state == DONE else self._constraint.arcs(state)[token]


def _longest(fields: Sequence[str | Number]) -> int:
    texts = (field.encode() if isinstance(field, str) else _numerals(field.decimals)[0] for field in fields)
    return sum(map(len, texts))


def _byte_level_reader():
    """GPT-2's stand-ins for bytes: printable ones are themselves, the others 256, 257, ..."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}

    def read(token: str) -> bytes | None:
        return bytes(table[c] for c in token) if all(c in table for c in token) else None

    return read


def _word_sign_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
