"""What may change: LoRA adapters by part, through PEFT's own layers, parts that train whole, and the ledger of what trains.

Identity: `lora=none` attaches nothing; a fresh adapter whose initialisation `starts_at_zero` computes exactly nothing,
so its logits are bit-identical to the checkpoint's.
"""

from lab.lora.attaching import ADAPTER, AdapterLayers, attach, check, detach, finalize_adapter, verify
from lab.lora.counting import LedgerRow, ledger, ledger_facts, ledger_text
from lab.lora.full import as_untrained, full_names, full_parameters, install, keep, parts_of, resting
from lab.lora.initialisations import INITS, Init, init_of
from lab.lora.merging import merge, merged_weights
from lab.lora.rates import learning_rate, parameter_groups, parameters, seeing, trainable
from lab.lora.sizing import adapter_parameters, added_parameters, sized
from lab.lora.targets import PRESETS, features, is_linear, reached, target_names, target_pattern

__all__ = [
    "ADAPTER", "INITS", "PRESETS", "AdapterLayers", "Init", "LedgerRow", "adapter_parameters", "added_parameters", "as_untrained",
    "attach", "check", "detach", "features", "finalize_adapter", "full_names", "full_parameters", "init_of", "install", "is_linear",
    "keep", "learning_rate", "ledger", "ledger_facts", "ledger_text", "merge", "merged_weights", "parameter_groups", "parameters",
    "parts_of", "reached", "resting", "seeing", "sized", "target_names", "target_pattern", "trainable", "verify",
]
