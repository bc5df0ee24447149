"""Rewards by name that are weighted terms.

`deepeyes`: 0.8 accuracy + 0.2 format + 1.2 tool (arXiv 2505.14362, section 3.2, with the weights of its code).
`closer`: the same, but the bonus wants a look at a part of the picture, and at the evidence where that is known.
`iou`: the same, but the bonus is the overlap of the crops with the evidence (as TreeVGR, arXiv 2507.07999, pays boxes).
`visual-cost`: right answers, and every thousand visual tokens that a tool showed costs a tenth of one.
`deepeyes-v2`: 0.8 accuracy + 0.2 answered; an answer of 300 characters or more is wrong (arXiv 2511.05271).
`mini-o3`: right answers alone (arXiv 2509.07969), whose episodes that meet a limit are left out by `--truncated mask`.
`accuracy`: the answer alone, with the parts of `deepeyes` reported.
"""

from __future__ import annotations

from visualzoom.rewards.judges import Short
from visualzoom.rewards.terms import WeightedTerms

deepeyes = WeightedTerms({"accuracy": 0.8, "format": 0.2, "tool": 1.2})
closer = WeightedTerms({"accuracy": 0.8, "format": 0.2, "closer": 1.2})
iou = WeightedTerms({"accuracy": 0.8, "format": 0.2, "evidence": 1.2})
visual_cost = WeightedTerms({"accuracy": 1.0, "format": 0.2, "visual_tokens": -0.1})
deepeyes_v2 = WeightedTerms({"accuracy": 0.8, "answered": 0.2}, judge=Short(300))
mini_o3 = WeightedTerms({"accuracy": 1.0})
accuracy = WeightedTerms({"accuracy": 1.0, "format": 0.0, "tool": 0.0})
