"""What two packages of Captionmill must agree on; standard library and pydantic only."""
