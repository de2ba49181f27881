"""Damaged and contradictory trace files are refused by `moekv run`: exit 2, a message that names the file, no result, no hang under mpirun."""
import os
import unittest

import h5py
import numpy as np

import program
import trace_file


def edit(change):
    """A fault that is made inside the HDF5 file."""
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file)
    return damage


def replace(name, change):
    """A dataset replaced by change(its values)."""
    def swap(file):
        values = change(file[name][()])
        del file[name]
        file[name] = values
    return edit(swap)


def set_value(name, place, value):
    return edit(lambda file: file[name].__setitem__(place, value))


def set_attribute(group, name, value):
    return edit(lambda file: file[group].attrs.__setitem__(name, value))


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip_compressed_bytes(path):
    with h5py.File(path) as file:
        chunk = file["routing/expert_ids"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    data[middle:middle + 8] = bytes(byte ^ 0xFF for byte in data[middle:middle + 8])
    path.write_bytes(data)


def claim_huge_table(file):
    """A few kilobytes on disk that say they hold 2^40 rows."""
    del file["routing/expert_ids"]
    file.create_dataset("routing/expert_ids", (1 << 40, 2, 2), "u1", chunks=(1024, 2, 2), compression="gzip")


FAULTS = {
    "empty file": lambda path: path.write_bytes(b""),
    "text instead of HDF5": lambda path: path.write_text("expert,weight\n1,0.5\n"),
    "truncated": cut,
    "bytes of a compressed chunk flipped": flip_compressed_bytes,
    "another format": set_attribute("/", "format", "other-trace"),
    "newer major version": set_attribute("/", "version", np.array([2, 0], "i4")),
    "format missing": edit(lambda file: file.attrs.__delitem__("format")),
    "routing missing": edit(lambda file: file.__delitem__("routing")),
    "weights missing at level 1": edit(lambda file: file.__delitem__("routing/weights")),
    "unknown order": set_attribute("/", "order", "shuffled"),
    "more experts than a router has": set_attribute("model", "n_experts", 100000),
    "more experts per token than experts": set_attribute("model", "top_k", 9),
    "expert id out of range": set_value("routing/expert_ids", (30, 1, 0), 8),
    "expert chosen twice": set_value("routing/expert_ids", (5, 0), [3, 3]),
    "weight not a number": set_value("routing/weights", (12, 0, 1), np.nan),
    "negative weight": set_value("routing/weights", (12, 0, 1), -0.25),
    "weights do not sum to one": set_value("routing/weights", (12, 0), [0.5, 0.25]),
    "offsets run backwards": set_value("requests/token_offset", 1, 41),
    "offsets beyond the rows": set_value("requests/token_offset", 2, 4000),
    "lengths contradict the offsets": set_value("requests/prompt_len", 0, 19),
    "layer ids descend": set_value("model/moe_layer_ids", 0, 2),
    "layer id outside the model": set_value("model/moe_layer_ids", 1, 7),
    "one row too few": replace("routing/expert_ids", lambda ids: ids[:-1]),
    "floats as expert ids": replace("routing/expert_ids", lambda ids: ids.astype("f4")),
    "two dimensions": replace("routing/expert_ids", lambda ids: ids[:, 0, :]),
    "claims 2^40 rows": edit(claim_huge_table),
}


class BadTraces(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.trace = self.folder / "tiny.moekv.h5"
        (self.folder / "tiny.yaml").write_text(trace_file.CONFIG)

    def test_sound_trace_is_replayed(self):
        trace_file.write(self.trace)
        self.run_ok("trace", "info", self.trace)
        self.run_ok("run", "tiny.yaml", "--out", "out.h5", ranks=2)
        self.assertTrue((self.folder / "out.h5").is_file())

    def test_each_fault_is_refused(self):
        for name, damage in FAULTS.items():
            with self.subTest(name):
                trace_file.write(self.trace)
                damage(self.trace)
                message = self.refuse("run", "tiny.yaml", "--out", "out.h5", limit_s=20)
                self.assertIn("tiny.moekv.h5", message)
                self.assertEqual(self.refuse("run", "tiny.yaml", "--out", "out.h5", ranks=2, limit_s=20), message)

    def test_a_model_of_other_experts_is_refused(self):
        trace_file.write(self.trace)
        message = self.refuse("run", "tiny.yaml", "model.gate={n_experts: 16, top_k: 3}")
        self.assertIn("has 8 experts, model 'tiny' has 16", message)
        self.assertIn("has 2 chosen experts per token, model 'tiny' has 3", message)

    def test_an_output_never_replaces_an_input(self):
        trace_file.write(self.trace)
        inputs = {path: path.read_bytes() for path in (self.trace, self.folder / "tiny.yaml")}
        other = self.folder / "other.moekv.h5"
        other.symlink_to(self.trace.name)
        for command in (("run", "tiny.yaml", "--out", self.trace), ("run", "tiny.yaml", "--out", other), ("run", "tiny.yaml", "--out", "tiny.yaml"),
                        ("run", "tiny.yaml", "--out", "log.h5", "--access-log", "log.h5"), ("trace", "export", self.trace, "--npz", other),
                        ("trace", "join", self.trace, "--concat", "--requests", "1", "--tokens", "9", "-o", self.trace)):
            with self.subTest(command):
                self.assertIn("is also an input", self.refuse(*command))
        self.assertEqual(inputs, {path: path.read_bytes() for path in inputs})
        self.assertIn("is also an input, or another output", self.refuse("run", "tiny.yaml", "--out", "new.h5", "--access-log", "./new.h5"))

    def test_what_is_no_regular_file_stays(self):
        trace_file.write(self.trace)
        os.mkfifo(self.folder / "pipe")
        for command in (("run", "tiny.yaml", "--out", "pipe"), ("trace", "export", self.trace, "--npz", "pipe"), ("sweep", "tiny.yaml", "--out", "pipe")):
            self.refuse(*command)
            self.assertTrue((self.folder / "pipe").is_fifo())
        (self.folder / "link").symlink_to("target.h5")
        for _ in range(2):  # where the target is absent, and where it is there
            self.run_ok("run", "tiny.yaml", "--out", "link")
            self.assertTrue((self.folder / "link").is_symlink() and (self.folder / "target.h5").is_file())

    def test_request_trace_has_nothing_to_replay(self):
        (self.folder / "lengths.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:01:51.16,20,5\n2023-11-16 18:01:52.16,9,3\n")
        (self.folder / "own.csv").write_text("when,in,out\n0,20,5\n12,9,3\n")
        self.run_ok("trace", "import", "own.csv", "--field", "arrival=when", "--field", "prompt=in", "--field", "output=out", "--time-unit", "ms", "-o", "own.moekv.h5")
        for kind in ("--npz", "--jsonl"):
            self.assertIn("is a trace of requests without routing", self.refuse("trace", "export", "own.moekv.h5", kind, "out"))
            self.assertFalse((self.folder / "out").exists())
        self.run_ok("trace", "import", "lengths.csv", "--out", self.trace)
        for command in (("run", "tiny.yaml", "--out", "out.h5"), ("plan", "tiny.yaml"), ("trace", "stats", self.trace)):
            self.assertIn("request trace", self.refuse(*command))


if __name__ == "__main__":
    unittest.main()
