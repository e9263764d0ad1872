"""`got studio`: a web page to plan, draw, change and edit pictures."""
