"""Every lint can fail: each is given small trees with one fault, and a sound one."""
import shutil
import tempfile
import unittest
from pathlib import Path

import files
import headers_alone
import layers
import macros

SOUND = {
    "src/core/hd.hpp": "// Marks device functions.\n#pragma once\n#define MOEKV_HD inline\n",
    "src/core/id.hpp": "// Ids.\n#pragma once\n#include <string>\n",
    "src/comm/mpi.cpp": "// Transport over MPI.\n#include <mpi.h>\n#include \"core/id.hpp\"\n",
    "src/rules/place.hpp": "// Placement.\n#pragma once\n#include <cstdint>\n// #include <vector> in a comment is none\n",
    "src/engine/replay.cpp": "// Replay.\n#include \"comm/transport.hpp\"\n",
    "src/comm/transport.hpp": "// The seam.\n#pragma once\n",
}


class Lints(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)

    def findings(self, check, changes):
        for name, source in {**SOUND, **changes}.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return check(self.root)

    def expect(self, check, name, source, text):
        """The fault is found, at that file, and nothing else is."""
        found = self.findings(check, {name: source})
        self.assertEqual(len(found), 1, found)
        self.assertIn(name, found[0])
        self.assertIn(text, found[0])

    def test_sound_tree_has_no_findings(self):
        for check in (layers.check, macros.check):
            self.assertEqual(self.findings(check, {}), [])
        self.assertEqual([f for f in files.check(self.root) if "listed but does not exist" not in f], [])

    def test_layer_to_the_right(self):
        self.expect(layers.check, "src/comm/a.cpp", "// A.\n#include \"engine/replay.cpp\"\n", "layer comm may not see layer engine")

    def test_brother_layer(self):
        self.expect(layers.check, "src/device/a.hpp", "// A.\n#include \"comm/transport.hpp\"\n", "layer device may not see layer comm")

    def test_mpi_outside_its_room(self):
        self.expect(layers.check, "src/engine/a.cpp", "// A.\n#  include <mpi.h>\n", ":2: include of mpi.h: only in comm")

    def test_hdf5_yaml_cuda_outside_their_rooms(self):
        for header in ("hdf5.h", "H5Dpublic.h", "yaml-cpp/yaml.h", "CLI/CLI.hpp", "cuda_runtime.h", "cuda/std/array", "nccl.h"):
            with self.subTest(header):
                self.expect(layers.check, "src/engine/a.cpp", f"// A.\n#include <{header}>\n", f"include of {header}: only in")

    def test_container_in_device_code(self):
        self.expect(layers.check, "src/rules/a.hpp", "// A.\n#include <vector>\n", "device code")

    def test_rules_are_headers(self):
        self.expect(layers.check, "src/rules/a.cpp", "// A.\n", "header-only")

    def test_include_written_wrongly(self):
        self.expect(layers.check, "src/engine/a.cpp", "// A.\n#include \"../core/id.hpp\"\n", "'..'")
        self.expect(layers.check, "src/engine/a.cpp", "// A.\n#include \"id.hpp\"\n", "no such file")
        self.expect(layers.check, "src/engine/a.cpp", "// A.\n#include <core/id.hpp>\n", "angle brackets")

    def test_file_outside_all_layers(self):
        self.expect(layers.check, "src/util/a.hpp", "// A.\n", "not in a layer's folder")

    def test_third_macro(self):
        self.expect(macros.check, "src/core/a.hpp", "// A.\n# define SQUARE(x) ((x) * (x))\n", ":2: macro SQUARE")

    def test_own_macro_in_another_file(self):
        self.expect(macros.check, "src/core/a.hpp", "// A.\n#define MOEKV_HD\n", "macro MOEKV_HD")

    def test_highway_macro_in_a_header(self):
        self.expect(macros.check, "src/device/a.hpp", "// A.\n#define HWY_TARGET_INCLUDE \"x\"\n", "macro HWY_TARGET_INCLUDE")

    def expect_file_finding(self, name, source, text):
        self.expect(lambda root: [f for f in files.check(root) if "listed but does not exist" not in f], name, source, text)

    def test_long_file(self):
        self.expect_file_finding("src/core/a.hpp", "// A.\n#pragma once\n" + "int x();\n" * 299, "301 lines")

    def test_long_line(self):
        self.expect_file_finding("src/core/a.cpp", "// A.\n//" + "x" * 159 + "\n", ":2: 161 columns")

    def test_first_sentence(self):
        self.expect_file_finding("src/core/a.cpp", "int x();\n", "first line")

    def test_guard(self):
        self.expect_file_finding("src/core/a.hpp", "// A.\nint x();\n", "#pragma once")

    def test_path_of_one_machine(self):
        self.expect_file_finding("configs/a.yaml", "trace: " + "/home" + "/me/trace.h5\n", "path of one machine")

    def test_unfinished(self):
        self.expect_file_finding("src/core/a.cpp", "// A.\n// TO" + "DO: later\n", "unfinished")

    def test_header_that_needs_another(self):
        sound = {"src/core/id.hpp": "// Ids.\n#pragma once\n#include <string>\nstd::string id();\n"}
        broken = {"src/core/id.hpp": "// Ids.\n#pragma once\nstd::string id();\n"}
        unguarded = {"src/core/id.hpp": "// Ids.\nstruct Id {};\n"}
        check = lambda root: headers_alone.check(root, "c++", ["-std=c++20"])  # noqa: E731
        self.assertEqual(self.findings(check, sound), [])
        for fault in (broken, unguarded):
            found = self.findings(check, fault)
            self.assertEqual(len(found), 1, found)
            self.assertIn("src/core/id.hpp: does not compile alone", found[0])


if __name__ == "__main__":
    unittest.main()
