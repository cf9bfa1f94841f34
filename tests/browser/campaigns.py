"""What is judged in the browser tests."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.data.comparisons import Comparison, Message, Response


def comparison(prompt: str | Sequence[Message], *responses: str) -> Comparison:
    messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
    return Comparison(prompt=messages, responses=tuple(Response(text) for text in responses))


def numbered(count: int) -> list[Comparison]:
    return [comparison(f"question {number}", f"{number} good", f"{number} bad") for number in range(1, count + 1)]


SOURDOUGH = comparison(
    (
        Message("user", "How often do I feed a sourdough starter that lives in the fridge?"),
        Message("assistant", "Once a week is enough: cold yeast eats slowly."),
        Message("user", "Mine smells of nail varnish. Is it dead, or can I still bake with it this weekend?"),
    ),
    "It is hungry, not dead. The sharp smell is acetone, which yeast makes when it runs out of flour.\n\n"
    "To bring it back:\n"
    "1. Keep one spoonful and discard the rest.\n"
    "2. Feed it 50 g of flour and 50 g of water, twice a day.\n"
    "3. Bake when it doubles within six hours of a feed.\n\n"
    "If you start today, it should be ready by Saturday evening. Pink or orange streaks are mould: then throw it away.",
    "A smell of nail varnish means that your starter has gone bad. Throw it away and begin again with fresh flour and "
    "water, which takes about two weeks.\n\nSourdough is very old: bakers in Egypt knew it already. Good luck with "
    "your baking!",
)
SKY = comparison(
    "Explain to a ten-year-old why the sky is blue but sunsets are red.",
    "Sunlight is a mix of all colours. Air bounces blue light around much more than red light, so blue comes to your "
    "eyes from every part of the sky.\n\nAt sunset the light crosses far more air. Most of the blue has been bounced "
    "away by then, and what is left is orange and red.",
    "The sky is blue because it reflects the sea. In the evening the sun gets colder, and cold things glow red.",
    "Rayleigh scattering has an intensity proportional to the inverse fourth power of the wavelength; near the horizon "
    "the optical path is longer.",
    "Blue light gets scattered by the air, so we see it everywhere. At sunset it has a longer way to go, so the red is "
    "left over. That is why!",
)
EVERYDAY = [
    SOURDOUGH,
    comparison("Which plants survive on a windy balcony?", "Lavender, thyme and sedum.", "All plants need sun."),
    comparison("Write a polite reminder for an unpaid invoice.", "May I remind you of invoice 7?", "Pay now."),
    comparison("What is a tide?", "The sea's rise and fall, twice a day.", "Waves that are very large."),
    comparison("Why do cats purr?", "Mostly when content, sometimes when in pain.", "They have a motor."),
    comparison("How do I fold a fitted sheet?", "Tuck the corners into each other.", "Roll it into a ball."),
]
