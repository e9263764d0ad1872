"""The grammar of reasoning chains: parsing, phrases, edits, and the forms in which boxes are written."""
