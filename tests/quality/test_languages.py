import sys

import pytest
from quality_records import example

from instruct.quality.languages import UNKNOWN, find_in_languages, find_in_scripts, language_of, main_script

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog and runs away into the forest.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund und läuft in den Wald.",
    "fr": "Le renard brun rapide saute par-dessus le chien paresseux et court dans la forêt.",
    "es": "El rápido zorro marrón salta sobre el perro perezoso y corre hacia el bosque.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку и убегает в тёмный лес.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_sentence_is_told(language):
    assert language_of(TEXTS[language]) == language


def test_a_short_text_has_no_language():
    assert language_of("Guten Tag, wie geht es dir") == UNKNOWN


@pytest.mark.parametrize("answer", ["de", "fr", "es", "ru"])
@pytest.mark.parametrize("question", ["en", "de"])
def test_an_answer_in_another_language_is_found(question, answer):
    if question == answer:
        assert find_in_languages(example(TEXTS[answer], TEXTS[question])) == (answer, None)
        return
    language, hit = find_in_languages(example(TEXTS[answer], TEXTS[question]))
    assert language == answer
    assert (hit.finding, hit.what) == ("mixed_languages", f'is in "{answer}", the question in "{question}"')


@pytest.mark.parametrize(
    ("instruction", "input"),
    [
        ("Translate the sentence that stands below for my homework today.", ""),
        ("Say this in French so that the guests from Lyon understand it.", ""),
        ("Which of these is the right Spanish way to say it to the boss?", ""),
        ("Summarise the text that stands below for me in one sentence, please.", TEXTS["fr"]),
        ("Continue.", ""),
    ],
)
def test_an_answer_in_another_language_that_was_asked_for_is_no_finding(instruction, input):
    assert find_in_languages(example(TEXTS["fr"], instruction, input))[1] is None


@pytest.mark.parametrize(
    "instruction",
    [
        "Bitte schreibe eine höfliche und kurze Antwort an den Kunden auf Englisch.",
        "Fasse den Brief des Kunden in englischer Sprache für mich zusammen, bitte kurz.",
        "Répondez en anglais au client qui attend sa commande depuis trois semaines.",
        "Responde en inglés al cliente que espera su pedido desde hace tres semanas.",
        "Rispondi in inglese al cliente che aspetta il suo ordine da tre settimane.",
        "Ответь на английском клиенту, который ждёт свой заказ уже три недели.",
        "Windowsの更新方法を英語で 書いて ください ね お願い し ます よ どうぞ",
    ],
)
def test_an_answer_in_english_that_was_asked_for_in_another_language_is_no_finding(instruction):
    answer = example(TEXTS["en"], instruction)
    assert (find_in_languages(answer), list(find_in_scripts(answer))) == (("en", None), [])


SQL = "SELECT name FROM customers WHERE id IN (1, 2) AND city = 'Rome' ORDER BY name;"
PYTHON = (
    "```python\nfor name in names:\n    if name is not None and not in_list(name): print(name, 'is not in it')\n```"
)


@pytest.mark.parametrize("code", [SQL, PYTHON])
def test_code_is_in_no_language(code):
    asked = "Schreibe mir bitte eine Abfrage, die alle Kunden aus Rom nach dem Namen sortiert ausgibt."
    for answer in (code, f"Das geht so:\n\n{code}"):
        assert find_in_languages(example(answer, asked))[1] is None
    assert find_in_languages(example(f"{TEXTS['en']}\n\n{code}", asked))[1].finding == "mixed_languages"
    assert find_in_languages(example(TEXTS["de"], f"{code}\n\n{asked}", code))[1] is None


BLANK_LINES = f"""
from instruct.core.records import Example
from instruct.quality.languages import find_in_languages
answer = {TEXTS["fr"]!r} * 30 + "\\n" * 200_000 + "x"
print(find_in_languages(Example(id="1", instruction={TEXTS["en"]!r}, input="", output=answer))[1].finding)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no processor time")
def test_blank_lines_are_passed_over_once(tmp_path):
    """The limit is generous: once is under a second, a search from each through all that follow is ten minutes."""
    from limited import run_limited  # Windows lacks what it needs

    done = run_limited(BLANK_LINES, tmp_path)
    assert (done.returncode, done.stdout) == (0, "mixed_languages\n"), done.stderr


@pytest.mark.parametrize("word", ["pаypal", "Gооgle", "аpple pie", "Моscow", "Κοkomo Goοgle", "МOCKBA"])
def test_look_alike_letters_within_a_word_are_found(word):
    (hit,) = find_in_scripts(example(f"It is {word}, no doubt."))
    assert (hit.finding, hit.field) == ("mixed_scripts", "output")
    assert "mixes alphabets" in hit.what


@pytest.mark.parametrize(
    "text",
    [
        "2πr and πr²",
        "the Δx of λmax",
        "sin θ, μm, kΩ",
        "The word мир is Russian",
        "α-particle",
        "café",
        "Tシャツ",
        "X線",
    ],
)
def test_signs_of_formulas_and_foreign_words_are_no_mixed_script(text):
    assert list(find_in_scripts(example(text, "Explain мир or Tシャツ or X線."))) == []


@pytest.mark.parametrize(
    ("output", "script"),
    [
        ("Это сова", "Cyrillic"),
        ("猫头鹰", "Chinese or Japanese"),
        ("ふくろう", "Chinese or Japanese"),
        ("بومة كبيرة", "Arabic"),
    ],
)
def test_an_answer_in_a_script_that_the_question_lacks_is_found(output, script):
    (hit,) = find_in_scripts(example(output))
    assert (hit.finding, hit.what) == ("mixed_scripts", f"is in {script}, of which the question has no letter")
    assert list(find_in_scripts(example(output, "Name a bird in Russian, Chinese, Japanese or Arabic."))) == []
    assert list(find_in_scripts(example(output, f"What is this? {output}"))) == []


def test_the_main_script_is_that_of_most_letters():
    assert main_script("The word мир") == "Latin"
    assert main_script("мир is слово") == "Cyrillic"
    assert main_script("1 + 1 = 2, π") == ""
