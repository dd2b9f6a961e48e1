"""Languages and scripts: words that mix alphabets, and answers in a different language from their question.

`py3langid` detects languages, only for texts of eight words or more, and only its confident results count.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from instruct.core.records import Example
from instruct.quality.hits import TEXTS, Hit

WORDS, SURE = 8, 0.9
UNKNOWN = "unknown"
# Three of these words, which no other language has together, skip the slower detection.
_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the of and to is that with for was are this by from which it has have an a in on as at or be not but you your "
        "he she they their its his her can will into when were been would could should there than",
    )
)
_SCRIPTS = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Hebrew": "\u0590-\u05ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
    "Korean": "\u1100-\u11ff\uac00-\ud7af",
    "Chinese or Japanese": "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff",
}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_LATIN, _CYRILLIC, _GREEK = (_SCRIPTS[name] for name in ("Latin", "Cyrillic", "Greek"))
# Latin and Cyrillic letters side by side in one word are look-alikes; a Greek one beside a Latin one may be a formula.
_LOOK_ALIKE = re.compile(
    f"[{_LATIN}]{{2}}[{_CYRILLIC}]|[{_CYRILLIC}][{_LATIN}]{{2}}|[{_LATIN}][{_CYRILLIC}][{_LATIN}]"
    f"|[{_CYRILLIC}]{{2}}[{_LATIN}]|[{_LATIN}][{_GREEK}][{_LATIN}]{{2}}|[{_LATIN}]{{2}}[{_GREEK}][{_LATIN}]"
)
# The answer to a question about languages or characters may be in another language.
_ABOUT_LANGUAGE = re.compile(
    r"translat|translit|languag|alphabet|script|letter|symbol|emoji|pinyin|kanji|spell|pronounc|proverb|motto|phrase"
    r"|tradu|traduz|übersetz|vertaal|перевед|翻译|翻譯|訳|번역|लिख|ترجم"
    r"|\b(?:english|french|spanish|german|italian|portuguese|russian|ukrainian|chinese|mandarin|japanese|korean|arabic"
    r"|hindi|hebrew|dutch|swedish|danish|norwegian|finnish|polish|turkish|greek|latin|czech|hungarian|romanian|thai"
    r"|vietnamese|indonesian|bengali|urdu|tamil|swahili|esperanto|catalan|welsh|irish|icelandic)\b"
    r"|\b(?:in|into|to) (?:\w+ian|\w+ish|\w+ese)\b"
    # The languages that are asked for most, in other languages.
    r"|\b(?:(?:englisch|deutsch|französisch|spanisch|italienisch|portugiesisch|niederländisch|russisch|chinesisch|japanisch)"
    r"(?:e[nrs]?)?|anglais|allemand|français|espagnol|italien|portugais|néerlandais|russe|chinois|japonais"
    r"|inglés|alemán|francés|español|italiano|portugués|neerlandés|ruso|chino|japonés"
    r"|inglese|tedesco|francese|spagnolo|portoghese|olandese|russo|cinese|giapponese"
    r"|inglês|alemão|francês|espanhol|português|holandês|chinês|japonês|engels|duits|frans|spaans|nederlands)\b"
    r"|sprache|langue|idioma|lingua|英語|英语|英文|日本語|日语|日文|中国語|中文|汉语|漢語|法语|德语|西班牙语"
    r"|영어|한국어|일본어|중국어|английск|русск|немецк|французск|испанск|итальянск|китайск|японск",
    re.I,
)
# Code is in no language: fenced, between backticks, or a statement of SQL, whose words look like English.
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|^[^\S\n]*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH)\b.*?(?:;|\n\s*\n|\Z)",
    re.DOTALL | re.MULTILINE,
)


def find_in_scripts(example: Example) -> Iterator[Hit]:
    """`mixed_scripts`: look-alike letters within a word, or an answer in a script that the question lacks."""
    for name in TEXTS:
        text: str = getattr(example, name)
        if not text.isascii() and (found := _LOOK_ALIKE.search(text)):
            yield Hit("mixed_scripts", name, f"mixes alphabets within the word at character {found.start()}")
            return
    if example.output.isascii():
        return
    question = f"{example.instruction}\n{example.input}"
    answer_script = main_script(example.output)
    if answer_script and not _LETTERS[answer_script].search(question) and not _ABOUT_LANGUAGE.search(question):
        yield Hit("mixed_scripts", "output", f"is in {answer_script}, of which the question has no letter")


def main_script(text: str) -> str:
    """The script of most letters of a text with at least four of them (two for Chinese or Japanese)."""
    counts = {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    best = max(counts, key=counts.__getitem__)
    enough = counts[best] >= (2 if best == "Chinese or Japanese" else 4)
    return best if enough and counts[best] > sum(counts.values()) / 2 else ""


def find_in_languages(example: Example) -> tuple[str, Hit | None]:
    """The language of the answer (`unknown` if it is short or unsure), and `mixed_languages`."""
    language = language_of(example.output)
    if language == UNKNOWN:
        return language, None
    asked_in = language_of(example.instruction)
    if asked_in in (language, UNKNOWN):
        asked_in = language_of(f"{example.instruction} {example.input}") if asked_in == UNKNOWN else asked_in
    if asked_in in (language, UNKNOWN) or language_of(example.input) == language:
        return language, None
    if _ABOUT_LANGUAGE.search(f"{example.instruction}\n{example.input}"):
        return language, None
    instruction, input_, output = (_CODE.sub(" ", getattr(example, name)) for name in TEXTS)
    prose = replace(example, instruction=instruction, input=input_, output=output)
    if prose != example:
        return language, find_in_languages(prose)[1]
    return language, Hit("mixed_languages", "output", f'is in "{language}", the question in "{asked_in}"')


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, or `unknown`."""
    words = text.lower().split()
    if len(words) < WORDS:
        return UNKNOWN
    if len(_ENGLISH.intersection(words)) >= 3:
        return "en"
    language, confidence = _identifier().classify(text[:2000])
    return str(language) if confidence >= SURE else UNKNOWN


@cache
def _identifier() -> LanguageIdentifier:
    """The model of py3langid, loaded once."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
