"""The chat page: tries images, questions and settings in a browser before they are applied to a folder."""
