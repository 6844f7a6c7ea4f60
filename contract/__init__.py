"""What several packages of Captionmill must agree on; standard library and pydantic only."""
