"""The one exception that tells the person at the command line what to change; it knows no reasons itself."""


class ConversionError(Exception):
    """The conversion cannot be done as asked; the message is one sentence a person can act on."""
