"""Help of every command, and what happens when the command line is wrong."""
import re
import subprocess
import unittest

import program

EXPECTED = {"run", "sweep", "merge", "export", "oracle", "plan", "policy", "list", "doctor", "diff", "score", "show", "trace"}
EXPECTED_TRACE = {"import", "info", "stats", "generate", "export", "join"}


def subcommands(help_text):
    listed = help_text.partition("\nSubcommands:\n")[2]
    return re.findall(r"(?m)^  ([a-z][\w-]*) ", listed)


class Help(program.ProgramTest):
    def test_program_lists_its_commands(self):
        text = self.run_ok("--help").out
        self.assertLessEqual(EXPECTED, set(subcommands(text)), text)
        self.assertLessEqual(EXPECTED_TRACE, set(subcommands(self.run_ok("trace", "--help").out)))

    def test_every_command_explains_itself(self):
        commands = [[name] for name in subcommands(self.run_ok("--help").out)]
        commands += [["trace", name] for name in subcommands(self.run_ok("trace", "--help").out)]
        for words in commands:
            with self.subTest(" ".join(words)):
                text = self.run_ok(*words, "--help").out
                self.assertIn("Usage:", text)
                self.assertNotEqual(text.splitlines()[0].strip(), "", "no description")
                undescribed = re.findall(r"(?m)^  -[\w,-]+(?: [A-Z:\[\]x ]+)?$", text)
                self.assertEqual([u for u in undescribed if not re.search(re.escape(u) + r"\n {20,}\S", text)], [], "options without description")

    def test_help_under_mpirun_is_printed_once(self):
        self.assertEqual(self.run_ok("--help", ranks=2).out, self.run_ok("--help").out)

    def test_wrong_command_lines(self):
        for words in ([], ["rum"], ["--verbsoe"], ["run"], ["run", "--no-such-option", "x.yaml"], ["trace"], ["trace", "impotr"], ["diff", "one.h5"]):
            with self.subTest(" ".join(words)):
                self.refuse(*words)
        self.assertIn("--seed: '-1' is negative", self.refuse("trace", "generate", "--preset", "uniform", "--seed", "-1", "--out", "x.h5"))
        self.assertIn("unknown subcommand 'rum': did you mean 'run'?", self.refuse("rum"))
        self.assertIn("unknown subcommand 'impotr': did you mean 'import'?", self.refuse("trace", "impotr"))
        self.assertIn("unknown option '--ot', did you mean '--out'?", self.refuse("run", "x.yaml", "--ot=x.h5"))
        self.assertRegex(self.run_ok("--version").out, r"^moekv \d+\.\d+\.\d+ \(.*commit .*\)\n$")

    def test_wrong_command_line_under_mpirun_is_said_once(self):
        self.assertEqual(self.refuse("rum", ranks=2), self.refuse("rum"))

    def test_output_that_goes_nowhere(self):
        for target, reason in (("/dev/full", "No space left on device"), ("&-", "Bad file descriptor")):
            done = subprocess.run(["bash", "-c", f'"$0" list codecs >{target}', program.PROGRAM], capture_output=True, text=True)
            self.assertEqual(done.returncode, 70, done.stderr)
            self.assertRegex(done.stderr, f"^system error: cannot write to .*: {reason}\n$")

    def test_missing_file(self):
        self.assertIn("absent.yaml", self.refuse("run", "absent.yaml"))
        self.assertIn("absent.h5", self.refuse("trace", "info", "absent.h5"))


if __name__ == "__main__":
    unittest.main()
