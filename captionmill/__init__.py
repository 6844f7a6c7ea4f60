"""The `captionmill` command: everything that a person types; stands above all other packages."""
