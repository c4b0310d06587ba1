"""What may change: LoRA adapters by part, through PEFT's own layers, and the ledger of what trains.

Identity: `lora=none` attaches nothing; a fresh adapter whose initialisation `starts_at_zero` computes exactly nothing,
so its logits are bit-identical to the checkpoint's.
"""

from lab.lora.attaching import ADAPTER, AdapterLayers, attach, check, detach, finalize_adapter, install, verify
from lab.lora.counting import LedgerRow, ledger, ledger_facts, ledger_text
from lab.lora.initialisations import INITS, Init, init_of
from lab.lora.merging import merge
from lab.lora.rates import learning_rate, parameter_groups, parameters, trainable
from lab.lora.sizing import adapter_parameters, added_parameters, sized
from lab.lora.targets import PRESETS, features, is_linear, reached, target_names, target_pattern

__all__ = [
    "ADAPTER", "INITS", "PRESETS", "AdapterLayers", "Init", "LedgerRow", "adapter_parameters", "added_parameters", "attach", "check", "detach",
    "features", "init_of", "install", "is_linear", "learning_rate", "ledger", "ledger_facts", "ledger_text", "merge", "parameter_groups",
    "parameters", "reached", "finalize_adapter", "sized",
    "target_names", "target_pattern", "trainable", "verify",
]
