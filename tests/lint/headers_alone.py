"""Compiles every header of src by itself, syntax only, with the flags of a build folder's compile_commands.json.

usage: headers_alone.py BUILD_FOLDER [ROOT]
"""
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import source_tree

KEPT_FLAGS = ("-I", "-isystem", "-D", "-std=", "-W", "-f")


def flags_of_build(build):
    """The compiler and the union of the include, definition and warning flags of all C++ sources."""
    compiler, flags = None, {}
    for entry in json.loads((Path(build) / "compile_commands.json").read_text()):
        if entry["file"].endswith(".cu"):
            continue
        words = [w for w in shlex.split(entry["command"]) if not w.endswith("ccache")]
        compiler = compiler or words[0]
        for word, following in zip(words, words[1:] + [""]):
            if word == "-isystem":
                flags[("-isystem", following)] = None
            elif word.startswith(KEPT_FLAGS) and word not in ("-I", "-D"):
                flags[(word,)] = None
    return compiler, [word for group in flags for word in group]


def compile_alone(root, header, compiler, flags):
    """The compiler's message; empty where the header compiles. It is included twice: that must work too."""
    name = Path(header).relative_to("src")
    command = [compiler, *flags, f"-I{root / 'src'}", "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=f'#include "{name}"\n#include "{name}"\n', capture_output=True, text=True, check=False)
    return f"{header}: does not compile alone:\n{done.stderr[:2000]}" if done.returncode else ""


def check(root, compiler, flags):
    headers = [path for path in source_tree.code_files(root, "src") if path.suffix == ".hpp"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        messages = list(pool.map(lambda header: compile_alone(root, header, compiler, flags), headers))
    return [message for message in messages if message]


if __name__ == "__main__":
    build_folder = sys.argv.pop(1)
    source_tree.main(lambda root: check(root, *flags_of_build(build_folder)))
