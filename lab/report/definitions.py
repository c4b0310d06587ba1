"""What the words of the page mean, at its foot."""

from __future__ import annotations

from lab.report.document import Text

DEFINITIONS: tuple[Text, ...] = (
    "Every number of quality is recomputed from the per-example predictions of the dev split (predictions/dev.parquet of the "
    "named run). Parameters, seconds, latency and memory are what the run recorded.",
    "accuracy: share of examples whose likelier answer is the label. P(True) = p(True) / (p(True) + p(False)), each summed "
    "over the single-token spellings of the answer word, from one forward pass.",
    "95 % interval of a share of right answers (accuracy, consistency, agreement, Winoground): mid-P exact binomial, with the "
    "number of examples divided by what clusters take from it (design effect; Korn and Graubard 1998). Examples that share an "
    "image set or a sentence group are in one cluster. Where all answers are right, clusters are counted as if they stood or "
    "fell together, and the lower end is the bound that 3 / n approximates (rule of three).",
    "95 % interval of any other number, and of a difference: percentiles of a bootstrap that draws whole clusters, not examples. "
    "Where every resample gives the same number there is no interval. Two arms that are right on the same examples have the "
    "bound on the share of examples on which they may yet differ.",
    "consistency: share of sentence groups all of whose examples are right; its chance level is the mean of 2 to the minus "
    "group size, which depends on the groups and is not comparable between data sets or subsets.",
    "ECE: top-label expected calibration error, sum over 15 equal-width bins (lo, hi] of the bin's share times |accuracy - "
    "mean confidence| (Guo et al. 2017). Binned errors are biased upward, and more so under resampling: the interval may lie "
    "above the estimate. Equal mass: 15 bins of equal counts. Debiased L2: Kumar et al. 2019. Smooth ECE: "
    "without bins, Blasiok and Nakkiran 2023. MCE: the widest gap of any bin. P(True): of P(True) against the label instead of "
    "the top label.",
    "NLL: mean negative natural logarithm of the renormalised probability of the label. Brier: mean (P(True) - label)^2, "
    "0.25 for P(True) = 1/2 throughout.",
    "AUROC of confidence: probability that a right answer is more confident than a wrong one. Risk-coverage: error rate of the k "
    "most confident answers, mean over k; less is better.",
    "captured mass: mean of p(True) + p(False) under the full vocabulary, before renormalisation.",
    "temperature: T minimises NLL on minival and divides the log-odds on dev; nothing is fitted on dev.",
    "latency: from pixels to answer logits after a warm-up, decoding of images excluded, the device synchronised at every "
    "reading; one example at a time unless said otherwise. vision: tower and projector; prefill: the language model over image "
    "tokens and text; one more token: over the key-value cache. merged: adapters added into the weights. p50 and p95 are order "
    "statistics. examples/s: with as many examples together as scoring takes. Arms of a sweep that compute the same operations, whatever their weights "
    "hold (they differ in learning rate or seed, say), share one measurement.",
    "p: two-sided test that swaps the two arms within random clusters (over several seeds: t with seeds and clusters "
    "crossed; two seeds carry no interval). Holm: step-down correction over all comparisons of this page. McNemar: exact, blind "
    "to clusters.",
    "smallest detectable: difference in accuracy that this many examples and clusters find with probability 0.8 at a "
    "two-sided 0.05 (of several seeds: the first in common). noise floor: how far apart two runs that differ only in their "
    "seed may lie (95 %).",
    "A claim needs all three: Holm p < 0.05, an interval that excludes 0, a difference above the noise floor if one was "
    "measured; where there is no interval there is no claim.",
)
