"""Every file of bad_configs is refused: exit 2, a message with a place, no file written; under mpirun the same message, once, and no hang.

A file states what its message must contain in lines that begin with  # expect: 
"""
import concurrent.futures
import re
import unittest

import program

CONFIGS = sorted((program.SOURCE / "tests/cli/bad_configs").glob("*.yaml"))


def expected_texts(config):
    return re.findall(r"(?m)^# expect: (.+?)\s*$", config.read_text(encoding="utf-8", errors="replace"))


class BadConfigs(program.ProgramTest):
    def test_there_are_enough(self):
        self.assertGreaterEqual(len(CONFIGS), 30)

    def for_each(self, configs, check):
        """Runs check(config) for all, a few at a time: a launch mostly waits."""
        def outcome(config):
            try:
                check(config)
            except AssertionError as error:
                return f"{config.name}: {error}"
            return None
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            failures = [text for text in pool.map(outcome, configs) if text]
        self.assertEqual(failures, [])

    def test_each_is_refused(self):
        def check(config):
            message = self.refuse("run", config, "--out", "out.h5")
            self.assertRegex(message, rf"(?m)^\S*{re.escape(config.name)}(:\d+:\d+)?: error: ")
            for text in expected_texts(config):
                self.assertIn(text, message)
        self.for_each(CONFIGS, check)

    def test_each_is_refused_once_by_two_processes(self):
        def check(config):
            alone = self.refuse("run", config, "--out", "out.h5")
            self.assertEqual(self.refuse("run", config, "--out", "out.h5", ranks=2), alone)
        self.for_each(CONFIGS[::2], check)  # half of them: starting mpirun is what takes time


if __name__ == "__main__":
    unittest.main()
