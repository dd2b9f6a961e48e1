"""Ask, chat and serve: what was trained, through the template and the engine that were evaluated."""
