#!/usr/bin/python3
"""Writes sglang_per_token.pt, a dump as SGLang's expert distribution recorder saves it with torch (mode per_token), of three requests of record_test.py."""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
import record_test  # noqa: E402

records = record_test.Server(record_test.Sglang().requests(3, 1), 5, 4).records
for record in records:
    record["topk_ids_of_layer"] = torch.tensor(record["topk_ids_of_layer"])
torch.save({"records": records, "last_physical_to_logical_map": torch.arange(record_test.EXPERTS).repeat(record_test.LAYERS, 1)},
           Path(__file__).with_name("sglang_per_token.pt"))
