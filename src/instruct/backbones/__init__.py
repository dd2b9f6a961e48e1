"""The table of pretrained backbones, and fetching their files; imports no torch."""
