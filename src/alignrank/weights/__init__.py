"""What a detector is made from and kept as: recipes, and files of weights."""
