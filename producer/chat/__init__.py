"""The chat page: try images, questions and settings in a browser before they are applied to a folder."""
