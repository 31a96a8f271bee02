"""Figures published with the official networks, and counted on their modules."""

# Published with the official networks: multiply-adds and weight parameters, both in millions
# (A0 and 20G: no published figure; computed by the same rule by others).
PUBLISHED = {
    "fbnetv3_a0": (218.578288, 6.275532),
    "fbnetv3_a": (356.598280, 8.542224),
    "fbnetv3_b": (461.550136, 8.542224),
    "fbnetv3_c": (556.969904, 9.907136),
    "fbnetv3_d": (644.420352, 10.237552),
    "fbnetv3_e": (762.046336, 10.699464),
    "fbnetv3_f": (1181.644520, 13.803072),
    "fbnetv3_g": (2129.656384, 16.513648),
    "fbnetv3_20g": (20392.130944, 104.407488),
}
# Every trainable number, counted on the official modules.
PARAMETERS = {
    "fbnetv3_a0": 6_309_976,
    "fbnetv3_a": 8_598_480,
    "fbnetv3_b": 8_598_480,
    "fbnetv3_c": 9_973_816,
    "fbnetv3_d": 10_306_296,
    "fbnetv3_e": 10_772_896,
    "fbnetv3_f": 13_896_160,
    "fbnetv3_g": 16_623_920,
    "fbnetv3_20g": 104_565_696,
}
# fvcore's total on the official modules; ours leave out the classifier's no-op pool.
FVCORE = {
    "fbnetv3_a0": 227_428_080,
    "fbnetv3_a": 369_747_432,
    "fbnetv3_b": 478_081_448,
    "fbnetv3_c": 576_727_712,
    "fbnetv3_d": 665_656_672,
    "fbnetv3_e": 785_869_248,
    "fbnetv3_f": 1_214_645_832,
    "fbnetv3_g": 2_181_673_984,
    "fbnetv3_20g": 20_446_111_616,
}
