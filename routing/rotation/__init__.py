"""The evidence that V2 has been tried, and a rotation and its undo as they are written."""
