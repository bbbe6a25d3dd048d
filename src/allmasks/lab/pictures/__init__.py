"""One file a chapter, in the order of the notes."""
