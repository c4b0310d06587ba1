"""From a frozen config to results.

`prepare` builds what arms share (base, features, tokenised data); `run_arm` attaches, trains and measures one arm in a run
folder. A run alone and an arm of a sweep go through the same two functions.
"""

from lab.host.garbage import importing

with importing():  # torch and Transformers
    from lab.run.accounting import foresee
    from lab.run.arm import fail, new_run, reusable, run_alone, run_arm
    from lab.run.assembly import assemble, check, reload, trained
    from lab.run.facts import data_facts
    from lab.run.latency_rounds import interleaved_latency, lacks_latency
    from lab.run.measuring import PROBE, evaluate, require_effect, stored_probe, unasked, verify
    from lab.run.memory import max_concurrent_arms
    from lab.run.realised import realised
    from lab.run.sharing import Prepared, encoding_key, load_shared, prepare, require_adapter, shared_key, tower_trains, try_out
    from lab.run.warming import beside_features, warm

__all__ = [
    "PROBE", "Prepared", "assemble", "beside_features", "check", "data_facts", "encoding_key", "evaluate", "fail", "foresee", "interleaved_latency",
    "lacks_latency", "load_shared", "max_concurrent_arms", "new_run", "prepare", "realised", "reload", "require_adapter", "require_effect",
    "reusable", "run_alone", "run_arm", "shared_key", "stored_probe", "tower_trains", "trained", "try_out", "unasked", "verify", "warm",
]
