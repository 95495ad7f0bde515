"""Names of folders that mean something to somebody: to a shell, a glob, a template, a flag, a file system."""

ODD_NAMES = (
    *("[", "]", "lr[0.1]", "[0:3]", "*", "?", "{a,b}", "{", "}", "$HOME", "${x}", ":", "%", "%s", "%20", "#", "&", "'"),
    *(
        '"',
        ";",
        "~",
        "~root",
        "a b",
        " ",
        "a\nb",
        "a\tb",
        "-a",
        "--data_dir=x",
        "\\",
        "\\n",
        "|",
        "<a>",
        "`ls`",
        "!",
        "@2",
    ),
    *("a,b", "a=b", "file:", "..a", ".hidden", "\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}", "x" * 255),
)
