"""Texts that tokenizers get wrong, written out and drawn."""

from hypothesis import strategies as st

# SmolLM2's vocabulary was learnt from text without these six, nor any character of planes 4 to 11.
UNSPELLABLE = "\x04\x06\x13\x14\x16\x1d"

HOSTILE = [
    "",
    " ",
    "   \n\n\n \t\t\t",
    "a" + " " * 700 + "b" + "\n" * 300 + "\t" * 300,
    " 1  2   3 4x  5\n\n6\t7",
    "x  12 34 567,890.12 -5 3rd ½ ² ٣٤ 五 Ⅷ 𝟙𝟚",
    "I'll you're he's we've I'm she'd don't I'LL YOU'RE HE'S WE'VE I'M SHE'D DON'T 'sx 'Sx '1 ''s",
    "it’s ‘quoted’ “double” — dash… naïve café ÅØ ß ﬁ",
    "e\u0301 o\u0308\u0304 a\u0300\u0301\u0302 \u0301alone",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 👍🏽 ❤️ 🤷🏻‍♀️",
    "中文字符 日本語テキスト 한국어 ไทย हिन्दी",
    "السلام عليكم ١٢٣ שָׁלוֹם",
    "zero\u200bwidth\u200djoin\u200c\ufeffbom\u2060 \u00ad soft",
    "\u00a0non\u00a0break\u3000ideographic\u2003em\u2028line\u2029para\u0085nel\x1c\x1e\x1f",
    "".join(chr(code) for code in range(0x20) if chr(code) not in UNSPELLABLE) + "\x7f\x80\x9f",
    "<|endoftext|> <|im_start|>user\n<|im_end|><|endoftext|><repo_name>",
    "line\r\nline\rline\n\r\n  indented\n\tdef f(x):\n\t\treturn x  # 100%",
    "\ufffd\uffff\U0001f9ff\U0003ffff\U000e0041\U0010ffff",
    "http://a.b/c?d=e&f=%20#g C:\\dir\\file $x_1 == {y} [z] ~`^|",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 20,
]
FRAGMENTS = [
    " ",
    "  ",
    "\n",
    "\t",
    "\u00a0",
    "a",
    "the",
    "Q",
    "7",
    "12",
    "½",
    "٣",
    "'s",
    "'S",
    "'ll",
    "’t",
    "'",
    "!",
    "...",
]
FRAGMENTS += ["é", "e\u0301", "中", "👍🏽", "\u200d", "<|endoftext|>", "_", "-", "\r\n", "\x00"]


def texts(unspellable: str = ""):
    """Any text of assigned characters, and soups of the pieces that pre-tokenizers treat specially."""
    assigned = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters=unspellable)
    return st.one_of(st.text(assigned), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
