"""The merges of a byte-pair encoding, and whether tokens in their order say the same.

tiktoken knows no merges: it joins two neighbours whenever that makes a token, the earliest in the vocabulary first.
Lists of merges give the same if they come in the order of what they make, and hold for each token the pair that is
left of it one step before the end. Other pairs of the same token never meet: what is inside a token's place is merged
as in the token alone, as long as nothing has crossed its ends.
"""

from collections.abc import Iterable, Mapping

Pair = tuple[bytes, bytes]


def check_merges(ranks: Mapping[bytes, int], merges: Iterable[Pair], *, ignore_merges: bool) -> None:
    """Raise ValueError unless joining tokens by `ranks` gives what `merges` give; it names the first that differs."""
    made: dict[bytes, set[Pair]] = {}
    last = -1
    for left, right in merges:
        rank = ranks.get(left + right)
        if rank is None or rank < last or left not in ranks or right not in ranks:
            raise _out_of_order(left + right)
        made.setdefault(left + right, set()).add((left, right))
        last = rank
    for token in ranks:
        if len(token) > 1:
            pair = halves(token, ranks)
            wanted = [pair] if pair else splits(token, ranks)
            if not made.get(token, set()).issuperset(wanted) or not (pair or ignore_merges):
                raise _out_of_order(token)


def merges_of(token: bytes, ranks: Mapping[bytes, int]) -> list[Pair]:
    """The merges that make `token`; all that could for one that its own bytes never become."""
    pair = halves(token, ranks)
    return [pair] if pair else splits(token, ranks)


def splits(token: bytes, ranks: Mapping[bytes, int]) -> list[Pair]:
    """Every pair of tokens that `token` is made of."""
    pairs = ((token[:place], token[place:]) for place in range(1, len(token)))
    return [(left, right) for left, right in pairs if left in ranks and right in ranks]


def halves(token: bytes, ranks: Mapping[bytes, int]) -> Pair | None:
    """What byte-pair encoding leaves of `token` one merge before the end; None if it never comes so far."""
    parts = [token[place : place + 1] for place in range(len(token))]
    limit = ranks[token]
    if len(parts) == 2:
        return (parts[0], parts[1]) if parts[0] in ranks and parts[1] in ranks else None
    joined = [ranks.get(token[place : place + 2], limit) for place in range(len(token) - 1)]
    while len(parts) > 2:
        rank = min(joined)
        if rank >= limit:
            return None
        best = joined.index(rank)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
        del joined[best]
        if best:
            joined[best - 1] = ranks.get(parts[best - 1] + parts[best], limit)
        if best < len(joined):
            joined[best] = ranks.get(parts[best] + parts[best + 1], limit)
    return parts[0], parts[1]


def _out_of_order(token: bytes) -> ValueError:
    return ValueError(f"its merges are not in the order of its tokens, first at {token[:60]!r}")
