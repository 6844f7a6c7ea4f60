"""The root of the command's exceptions; imports nothing."""


class CaptionmillError(Exception):
    """The command cannot do as asked; the message is one sentence that a person can act on.

    captionmill.exits prints it and ends the command. The tree:

        CaptionmillError
            ConfigError             a file of options cannot be read or written
            ModelError              a kept model cannot be used, made or removed as asked
            SiteError               the server or a worker that a command started cannot go on
            ServerFolderError       `captionmill server` cannot use its folder
            EmbeddedServerError     Valkey does not start; raised on as SiteError, or refused
            FolderInUseError        another command holds a folder; raised on as one of the above
            ChildCallError          a call in a child process gave no result; the doctor reports it
    """
