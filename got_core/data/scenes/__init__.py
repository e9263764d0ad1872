"""The drawn world: coloured shapes, their requests, words, layouts and samples."""
