"""`got studio`: a web page to plan, generate, change and edit images."""
