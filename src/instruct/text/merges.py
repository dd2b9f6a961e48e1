"""The merges of a byte-pair encoding, and whether the order of the tokens is equivalent.

tiktoken has no merges: it joins two neighbours whenever that makes a token, the earliest in the vocabulary first. A
list of merges is equivalent if it follows the order of the tokens it makes and contains, for each token, the pair
that remains one step before the end. Other pairs of the same token never meet: bytes within a token's span merge as
in the token alone, as long as no merge has crossed its ends.
"""

from collections.abc import Iterable, Mapping

Pair = tuple[bytes, bytes]


def check_merges(ranks: Mapping[bytes, int], merges: Iterable[Pair], *, ignore_merges: bool) -> None:
    """Raise ValueError that names the first difference, unless joining by `ranks` is equivalent to `merges`."""
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
    """The merges that make `token`; all candidates if its bytes never become it."""
    pair = halves(token, ranks)
    return [pair] if pair else splits(token, ranks)


def splits(token: bytes, ranks: Mapping[bytes, int]) -> list[Pair]:
    """Every pair of tokens that joins to `token`."""
    pairs = ((token[:place], token[place:]) for place in range(1, len(token)))
    return [(left, right) for left, right in pairs if left in ranks and right in ranks]


def halves(token: bytes, ranks: Mapping[bytes, int]) -> Pair | None:
    """The two tokens left of `token` one merge before the end; None if encoding never gets there."""
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
