"""Plans: captions read, boxes compared, plans checked, repaired and changed."""
