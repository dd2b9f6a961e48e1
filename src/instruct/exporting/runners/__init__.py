"""Programs that answer prompts with an export, each in a process of its own that imports no more than a user would."""
