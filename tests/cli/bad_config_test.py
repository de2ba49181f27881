"""Every file of bad_configs is refused: exit 2, a message with a place, no file written; under mpirun the same message, once, and no hang.

A file states what its message must contain in lines that begin with  # expect: 
"""
import re
import unittest

import program

CONFIGS = sorted((program.SOURCE / "tests/cli/bad_configs").glob("*.yaml"))


def expected_texts(config):
    return re.findall(r"(?m)^# expect: (.+?)\s*$", config.read_text(encoding="utf-8", errors="replace"))


class BadConfigs(program.ProgramTest):
    def test_there_are_enough(self):
        self.assertGreaterEqual(len(CONFIGS), 30)

    def test_each_is_refused(self):
        for config in CONFIGS:
            with self.subTest(config.name):
                message = self.refuse("run", config, "--out", "out.h5")
                self.assertRegex(message, rf"(?m)^\S*{re.escape(config.name)}(:\d+:\d+)?: error: ")
                for text in expected_texts(config):
                    self.assertIn(text, message)

    def test_each_is_refused_once_by_two_processes(self):
        for config in CONFIGS[::2]:  # every kind of check is among them; a launch costs half a second
            with self.subTest(config.name):
                alone = self.refuse("run", config, "--out", "out.h5")
                self.assertEqual(self.refuse("run", config, "--out", "out.h5", ranks=2, limit_s=20), alone)


if __name__ == "__main__":
    unittest.main()
