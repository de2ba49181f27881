"""Include lint: a layer includes only layers left of it, and each outside library has its own room."""
import re

import source_tree

# Layer -> the layers it may include besides itself. Brothers do not see each other.
_BASE = {"core", "io", "rules"}
_SEAMS = {"trace", "device", "comm"}
MAY_INCLUDE = {
    "core": set(),
    "io": {"core"},
    "rules": {"core"},
    "trace": _BASE,
    "device": _BASE,
    "comm": _BASE,
    "engine": _BASE | _SEAMS,
    "model": _BASE | _SEAMS | {"engine"},
    "config": _BASE | _SEAMS | {"engine", "model"},
    "results": _BASE | _SEAMS | {"engine", "model"},
    "app": _BASE | _SEAMS | {"engine", "model", "config", "results"},
    "kernels": {"core", "rules", "device", "comm"},
}

# Outside header (pattern) -> the layers that may include it.
ROOMS = [
    (r"mpi(-ext)?\.h", {"comm"}),
    (r"(hdf5(_hl)?|H5\w*)\.h", {"io"}),
    (r"z(lib|conf)\.h", {"io"}),
    (r"yaml-cpp/.*", {"config", "app"}),
    (r"CLI/.*", {"config", "app"}),
    (r"(cuda|cublas|cub/|thrust/|nv|cooperative_groups|mma\.h).*", {"kernels"}),
    (r"nccl\.h", {"kernels"}),
    (r"Eigen/.*", {"device", "kernels"}),
    (r"hwy/.*", {"device"}),
]

# src/rules is compiled for the device too: no container that allocates, no streams, no libm, no foreign library.
RULES_MAY_INCLUDE = {"array", "bit", "compare", "concepts", "cstddef", "cstdint", "limits", "string_view", "tuple", "type_traits", "utility", "variant"}

# (file, header) -> why this one include breaks a rule above.
_GROUPS = "scores a whole group on the host; a device stages its keys for it"
_READ_SETS = "picks a read set on the host from scores that the device made"
EXCEPTIONS = {
    **{("src/rules/evict/expected_attention.hpp", header): _GROUPS for header in ("algorithm", "cstring", "vector")},
    **{("src/rules/evict/key_geometry.hpp", header): _GROUPS for header in ("algorithm", "numeric", "vector")},
    **{("src/rules/evict/observation.hpp", header): _GROUPS for header in ("algorithm", "cstring", "vector")},
    **{("src/rules/select/rule.hpp", header): _READ_SETS for header in ("algorithm", "numeric", "span", "vector")},
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)


def layer_of(path):
    parts = path.parts
    return "kernels" if parts[0] == "kernels" else (parts[1] if len(parts) > 2 else None)


def problem(root, path, quote, header):
    """Why `path` may not include `header`; None where it may."""
    layer = layer_of(path)
    if quote == '"':
        target = header.split("/")[0]
        if ".." in header.split("/"):
            return "path with '..'; write it from src/"
        if layer == "kernels" and (root / "kernels" / header).is_file():
            return None
        if target not in MAY_INCLUDE or not (root / "src" / header).is_file():
            return "no such file below src/"
        return None if target == layer or target in MAY_INCLUDE[layer] else f"layer {layer} may not see layer {target}"
    if (root / "src" / header).is_file():
        return "own header in angle brackets"
    for pattern, layers in ROOMS:
        if re.fullmatch(pattern, header) and layer not in layers:
            return f"only in {', '.join(sorted(layers))}"
    if layer == "rules" and header not in RULES_MAY_INCLUDE:
        return "src/rules is device code too; allowed: " + ", ".join(sorted(RULES_MAY_INCLUDE))
    return None


def check(root):
    findings = []
    for path in source_tree.code_files(root, "src", "kernels"):
        if layer_of(path) not in MAY_INCLUDE:
            findings.append(f"{path}: not in a layer's folder")
            continue
        if layer_of(path) == "rules" and path.suffix != ".hpp" and path.name != "catalogue.cpp":
            findings.append(f"{path}: src/rules is header-only, but for what catalogues say of a rule chosen at run time (catalogue.cpp)")
        source = source_tree.without_comments(source_tree.text(root, path))
        for match in INCLUDE.finditer(source):
            quote, header = match.groups()
            what = problem(root, path, quote, header)
            if what and (str(path), header) not in EXCEPTIONS:
                findings.append(f"{path}:{source.count(chr(10), 0, match.start(2)) + 1}: include of {header}: {what}")
    return findings


if __name__ == "__main__":
    source_tree.main(check)
