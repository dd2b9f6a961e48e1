"""Ask, chat and serve: the trained models, with the same template and engine as the evaluation."""
