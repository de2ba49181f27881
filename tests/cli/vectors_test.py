"""Every case of tests/vectors goes through the built `moekv policy KIND` and must give what the case expects; bad cases must be refused.

A file of tests/vectors/KIND holds one vector or a list of them: {"source", "case", "expect", "tolerance"}. Every field named in `expect` is
compared: numbers within the tolerance (absolute, 1e-6 unless told), all else exactly. A file of tests/vectors/bad holds refusals:
{"kind", "case" or "text", "expect"}, where `expect` lists what the message must contain.
"""
import json
import math
import subprocess
import unittest

import program

VECTORS = program.SOURCE / "tests/vectors"


def load(folder):
    """(file and index, vector) of every vector of a folder."""
    for path in sorted((VECTORS / folder).glob("*.json")):
        vectors = json.loads(path.read_text(encoding="utf-8"))
        for i, vector in enumerate(vectors if isinstance(vectors, list) else [vectors]):
            yield f"{folder}/{path.name}#{i}", vector


def decide(kind, text):
    done = subprocess.run([program.PROGRAM, "policy", kind], input=text, capture_output=True, text=True, timeout=program.LIMIT_S, check=False)
    return program.Finished(done.returncode, done.stdout, done.stderr)


def difference(actual, expected, tolerance, path="decision"):
    """Where the two differ first, or None. Objects are compared in the fields of the expected one."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name, value in expected.items():
            if name not in actual:
                return f"{path} has no {name}"
            found = difference(actual[name], value, tolerance, f"{path}.{name}")
            if found:
                return found
        return None
    if isinstance(expected, list) and isinstance(actual, list):
        if len(actual) != len(expected):
            return f"{path} has {len(actual)} elements, expected {len(expected)}: {actual}"
        found = (difference(a, e, tolerance, f"{path}[{i}]") for i, (a, e) in enumerate(zip(actual, expected)))
        return next(filter(None, found), None)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (actual, expected))
    same = math.isclose(actual, expected, rel_tol=0, abs_tol=tolerance) if numbers else type(actual) is type(expected) and actual == expected
    return None if same else f"{path} is {actual}, expected {expected}"


class Vectors(unittest.TestCase):
    def test_decisions(self):
        kinds = [folder.name for folder in sorted(VECTORS.iterdir()) if folder.is_dir() and folder.name != "bad"]
        self.assertGreaterEqual(len(kinds), 2)
        for kind in kinds:
            vectors = list(load(kind))
            done = decide(kind, json.dumps([vector["case"] for _, vector in vectors]))
            self.assertEqual(done.code, 0, f"{kind}: {done}")
            decisions = json.loads(done.out)
            self.assertEqual(len(decisions), len(vectors))
            for (name, vector), decision in zip(vectors, decisions):
                with self.subTest(name, source=vector["source"]):
                    self.assertTrue(vector["expect"], "a vector expects something")
                    self.assertIsNone(difference(decision, vector["expect"], vector.get("tolerance", 1e-6)))

    def test_refusals(self):
        for name, vector in load("bad"):
            with self.subTest(name):
                done = decide(vector["kind"], vector["text"] if "text" in vector else json.dumps(vector["case"]))
                self.assertEqual((done.code, done.out), (2, ""), str(done))
                self.assertRegex(done.err, r"(?m)^<stdin>[^ ]*: error: ")
                self.assertNotIn("internal error", done.err)
                for text in vector["expect"]:
                    self.assertIn(text, done.err)

    def test_comparison_can_fail(self):
        expected = {"ids": [[1, 2]], "weights": [[0.5, 0.25]], "name": "a"}
        for changed in ({"ids": [[1, 3]]}, {"ids": [[1]]}, {"weights": [[0.5, 0.251]]}, {"name": "b"}, {"name": 1}, {"ids": None}):
            self.assertIsNotNone(difference({**expected, **changed}, expected, 1e-6))
        self.assertIsNotNone(difference({}, expected, 1e-6))
        self.assertIsNone(difference({**expected, "more": 1}, expected, 1e-6))

    def test_file_argument_and_single_case(self):
        name, vector = next(load("route"))
        text = json.dumps(vector["case"])
        single = decide("route", text)
        self.assertIsNone(difference(json.loads(single.out), vector["expect"], 1e-6), name)
        self.assertEqual(program.run("policy", "route", "-").code, 2)  # an empty standard input
        self.assertIn("no such file", program.run("policy", "route", "absent.json").err)


if __name__ == "__main__":
    unittest.main()
