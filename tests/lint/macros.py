"""Macro lint: the project has two macros. What a library makes us define is listed here with its reason."""
import re

import source_tree

OWN = {"MOEKV_HD": "src/core/hd.hpp", "MOEKV_EXPECT": "src/core/error.hpp"}

# (file, macro) -> why it must be a macro.
EXCEPTIONS = {}

# Highway compiles a file once per instruction set by including it again; it wants these names, in .cpp files only.
HIGHWAY = {"HWY_TARGET_INCLUDE"}

DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.M)


def allowed(path, name):
    return OWN.get(name) == path.as_posix() or (name in HIGHWAY and path.suffix == ".cpp") or (path.as_posix(), name) in EXCEPTIONS


def check(root):
    findings = []
    for path in source_tree.code_files(root, "src", "kernels"):
        source = source_tree.without_comments(source_tree.text(root, path))
        findings += [
            f"{path}:{source.count(chr(10), 0, match.start(1)) + 1}: macro {match.group(1)}: use a function, a constant or a template"
            for match in DEFINE.finditer(source) if not allowed(path, match.group(1))
        ]
    return findings


if __name__ == "__main__":
    source_tree.main(check)
