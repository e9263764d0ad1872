"""`got bench`: how fast and how large everything is, beside plain baselines."""
