"""Every codec replays the recorded tinymoe cut on one, two and four processes: equal digests, equal bytes and errors; another name of a codec says so."""
import re
import unittest

import h5py
import numpy as np

import program

D, LAYERS = 32, 4
SETTINGS = f"""\
model: tinymoe
trace: {{path: {program.SOURCE}/configs/traces/tinymoe_cut.moekv.h5, max_requests: 2}}
cluster: {{ranks: 4}}
placement: {{layout: token}}
page: {{slots: 32}}
batch: {{load: concurrency(2)}}
probe: {{samples: 8}}
"""
# Settings with which rows of 32 channels shrink.
EXTRA = {"chan_prune.think": ["compression.pruned=0.5"], "lowrank.pca": ["compression.rank=16"], "lowrank.kq_svd": ["compression.rank=16"],
         **{name: ["compression.rank=16", "compression.maps_path=maps.h5"] for name in ("lora", "lora++", "ae_loaded")}}
# Codecs from parts: one that has a name, combinations that have none, K and V apart.
PARTS = {"turboquant_4bit_nc": {"k": "codec: parts, element: lloyd4, map: hadamard", "v": "codec: parts"},
         "apart": {"k": "codec: parts, element: int4_sym, scale: channel, centre: mean, table: page",
                   "v": "codec: parts, element: e2m1, scale: group, group: 16, map: select.magnitude"},
         "offline": {"": "codec: parts, element: fp8_e4m3, scale: group, group: 8, map: basis.pca, rank: 16, table: offline"},
         "smoothed": {"k": "codec: parts, map: diag, table: offline", "v": "codec: parts"}}
RAW = {"bf16", "fp16", "fp32"}
COUNTED = ["code_compression_factor", "page_compression_factor", "compression_factor", "sealed_fraction", "k_reconstruction_err", "page_logit_err"]


def codecs():
    return re.findall(r"(?m)^  ([a-z]\S*) ", program.run("list", "codecs").out)


class Codecs(program.ProgramTest):
    def write_maps(self, rank):
        with h5py.File(self.folder / "maps.h5", "w") as file:
            for plane in "kv":
                for name in ("down", "up"):
                    file[f"{plane}/{name}"] = np.eye(rank, D, dtype="f4")[None, None]
                file[f"{plane}/bias"] = np.zeros((1, 1, D), "f4")

    def test_each_replays_alike_on_one_two_and_four_processes(self):
        self.write_maps(16)
        names = codecs()
        self.assertGreaterEqual(len(names), 35, names)
        cases = {name: [f"compression.codec={name}", *EXTRA.get(name, []), *([f"payload.element={name}"] if name in RAW else [])] for name in names}
        for name, planes in PARTS.items():
            cases[f"parts.{name}"] = [f"compression.{plane}{'.' if plane else ''}{part.replace(': ', '=')}"
                                      for plane, parts in planes.items() for part in parts.split(", ")]
        runs = [self.sweep(SETTINGS, cases, ranks=ranks) for ranks in (None, 2, 4)]
        for name in ("int4_token", "turboquant_4bit_nc"):
            parts = runs[0]["parts" if name == "int4_token" else f"parts.{name}"]
            self.assertEqual([parts.metrics[m] for m in COUNTED], [runs[0][name].metrics[m] for m in COUNTED])
        errors = set()
        for name, alone in runs[0].items():
            with self.subTest(name):
                for other in runs[1:]:
                    self.assertEqual(other[name].digest, alone.digest)
                    np.testing.assert_array_equal([other[name].metrics[m] for m in COUNTED], [alone.metrics[m] for m in COUNTED])
                if name in RAW:
                    continue
                self.assertNotIn("not_exercised", alone.labels)
                self.assertGreater(alone.metrics["sealed_fraction"], 0.5)
                self.assertGreater(alone.metrics["code_compression_factor"], 1)
                errors.add((alone.metrics["k_reconstruction_err"], alone.metrics["code_compression_factor"]))
        self.assertGreater(len(errors), 25, "codecs differ")

    def test_another_name_says_what_it_stands_for(self):
        (self.folder / "run.yaml").write_text(SETTINGS)
        done = self.run_ok("run", "run.yaml", "compression.codec=quantized", "--out", "alias.h5")
        self.assertIn("note: compression.codec quantized stands for int8_token.asym", done.out)
        self.assertIn("stands for int8_token.asym", self.run_ok("show", "alias.h5").out)

    def test_a_codec_that_stores_every_channel_is_marked(self):
        (self.folder / "run.yaml").write_text(SETTINGS)
        done = self.run_ok("run", "run.yaml", "compression.codec=chan_prune.think", "--out", "think.h5")
        self.assertIn("stores all 32 channels of K", done.out)
        self.assertIn("compression.pruned of 0.5 or more", done.out)
        self.assertRegex(done.out, r"labels: .*not_exercised")
        self.assertIn("stores all 32 channels of K", self.run_ok("plan", "run.yaml", "compression.codec=chan_prune.think").out)


if __name__ == "__main__":
    unittest.main()
