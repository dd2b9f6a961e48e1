"""Programs that answer prompts with an export, each in its own process that imports only what a user would."""
