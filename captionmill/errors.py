"""The root of this package's exceptions; imports nothing."""


class CaptionmillError(Exception):
    """Every public exception of `captionmill` derives from it; captionmill.exits prints its message.

    ConfigError             a file of options cannot be read or written
    ModelError              a kept model cannot be used, made or removed as asked
    SiteError               the server or a worker that a command started cannot go on
    ServerFolderError       `captionmill server` cannot use its folder
    EmbeddedServerError     Valkey does not start; raised again as SiteError, or refused
    FolderInUseError        another command holds a folder; raised again as one of the above
    ChildCallError          a call in a child process gave no result; a finding of the doctor
    """
