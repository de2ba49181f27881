"""Selection and the access source `selected` on the recorded tinymoe cut: equal on 1, 2 and 4 processes, fidelity that grows with the budget."""
import json
import unittest

import program

TRACE = program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"
SETTINGS = f"""\
model: tinymoe
trace: {{path: {TRACE}, max_requests: 3, max_output_tokens: 40}}
cluster: {{ranks: 4}}
placement: {{layout: local}}
page: {{slots: 8, head_groups: 2}}
read: {{select: quest, budget_pages: 4}}
batch: {{load: concurrency(4)}}
probe: {{samples: 200}}
"""
CACHED = ("eviction.policy=lru", "eviction.access=selected", "eviction.budget=50%", "eviction.protect.sinks=0", "eviction.protect.recent=16")


class Select(program.ProgramTest):
    def replay(self, name, *overrides, ranks=None):
        config, out = self.folder / "select.yaml", self.folder / f"{name}.h5"
        config.write_text(SETTINGS)
        self.run_ok("run", config, *overrides, "--out", out, ranks=ranks)
        run = json.loads(self.run_ok("show", "--json", out).out)
        self.assertEqual(run["violations"], [])
        return run

    def value(self, run, name):
        return run["metrics"][name]["value"]

    def test_processes_decide_alike(self):
        alone = self.replay("alone", *CACHED)
        self.assertGreater(self.value(alone, "evictions"), 0)
        self.assertIn("feedback", alone["labels"])
        self.assertNotIn("not_exercised", alone["labels"])
        self.assertEqual(self.value(alone, "n_hit"), self.value(alone, "n_req"))
        counted = ("pages_considered", "pages_selected", "bounds_bytes_read", "bounds_bytes", "n_req", "entries_scanned", "entries_wanted", "metadata_bytes")
        for ranks in (2, 4):
            with self.subTest(processes=ranks):
                together = self.replay(f"n{ranks}", *CACHED, ranks=ranks)
                self.assertEqual(alone["digest"], together["digest"])
                for name in counted:
                    self.assertEqual(self.value(alone, name), self.value(together, name), name)

    def test_access_decides(self):
        digests = {self.replay(f"{policy}_{access}", *CACHED, f"eviction.policy={policy}", f"eviction.access={access}")["digest"]
                   for policy in ("lru", "lfu", "sieve") for access in ("selected", "dense")}
        self.assertGreaterEqual(len(digests), 5)

    def test_mass_grows_with_the_budget_up_to_dense(self):
        before, pages = 0.0, 0
        for budget in (1, 4, 16):
            run = self.replay(f"b{budget}", f"read.budget_pages={budget}")
            self.assertGreater(self.value(run, "attn_mass_kept_mean"), before)
            self.assertGreater(self.value(run, "pages_selected"), pages)
            before, pages = self.value(run, "attn_mass_kept_mean"), self.value(run, "pages_selected")
        all_pages, dense = self.replay("all", "read.budget_pages=4096"), self.replay("dense", "read=null")
        self.assertIn("not_exercised", all_pages["labels"])
        self.assertEqual(all_pages["digest"], dense["digest"])
        for name in ("attn_mass_kept_mean", "attn_out_err_mean", "entries_wanted", "entries_scanned"):
            self.assertEqual(self.value(all_pages, name), self.value(dense, name), name)

    def test_codecs_and_latent_keys(self):
        codec = self.replay("codec", "compression.codec=kivi4", "page.slots=32", "read.budget_pages=1")
        self.assertGreater(self.value(codec, "k_reconstruction_err"), 0)
        self.assertLess(self.value(codec, "pages_selected"), self.value(codec, "pages_considered"))


if __name__ == "__main__":
    unittest.main()
