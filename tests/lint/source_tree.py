"""What every lint needs: the files of the tree, their code without comments and strings, and one way to report findings."""
import os
import re
import subprocess
import sys
from pathlib import Path

SKIPPED_FOLDERS = {".git", "build", "results", "__pycache__"}
CODE_SUFFIXES = {".hpp", ".cpp", ".inc", ".cuh", ".cu"}
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def files(root, *folders):
    """All files below root (or only below its `folders`) that git does not ignore, sorted, as paths relative to root."""
    if (Path(root) / ".git").exists():
        listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
        done = subprocess.run(listing, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return sorted({Path(name) for name in done.stdout.split("\0") if name and (Path(root) / name).is_file()})
    found = []
    for folder in folders or ("",):
        for parent, names, leaves in os.walk(Path(root) / folder):
            names[:] = sorted(n for n in names if n not in SKIPPED_FOLDERS and not n.startswith("build-"))
            found += [Path(parent, leaf).relative_to(root) for leaf in sorted(leaves)]
    return found


def code_files(root, *folders):
    return [path for path in files(root, *folders) if path.suffix in CODE_SUFFIXES]


def text(root, path):
    return (Path(root) / path).read_text(encoding="utf-8", errors="replace")


def without_comments(source):
    """The source with comments blanked and newlines kept. String literals stay: include lines need them."""
    def blank(match):
        token = match.group(0)
        return token if token[0] in "\"'" else re.sub(r"[^\n]", " ", token)
    return TOKEN.sub(blank, source)


def main(check):
    """Runs `check(root)` on the tree named on the command line (default: this one) and ends the program with 1 where it found something."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    findings = check(root)
    print("\n".join(findings) or "no findings")
    sys.exit(1 if findings else 0)
