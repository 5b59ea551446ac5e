"""The vision-language-action model: transformers' PI0 with GridS attached, and what surrounds it."""
