"""The architectures, as literal rows.

Sources: A..G, A0 and 20G are the numbers published with the official models (mobile-vision,
2020-12-01). FBNetV2-L3 is the closest public form of the base network of the paper's recipe-only
search. nano was designed for this project, and nars_cifar was found by its search.
`tests/arch/test_tables.py` checks every block against the golden list, and parameters and MACs
exactly against the published figures.

Columns of a Row: name, kernel, expansion, channels, repeats, stride, SE. Exceptions are given by
keyword: `padding` of the first block where it is not kernel // 2, `groups`, `act`.
A pair is (first block, all others).
"""

from .arch import Arch, Row

ARCHS: dict[str, Arch] = {
    # Smaller than the paper's networks; published without weights.
    "fbnetv3_a0": Arch(
        resolution=224,
        stem_channels=12,
        rows=(
            Row("MB1", (3, 3), (1, 1), 12, 1, 1, False),
            Row("MB2", (3, 3), (4, 2), 24, 3, 2, False),
            Row("MB3", (3, 3), (4, 2), 40, 3, 2, True),
            Row("MB4", (5, 3), (4, 3), 72, 3, 2, False),
            Row("MB5", (3, 5), (4, 3), 104, 4, 1, True),
            Row("MB6", (3, 3), (4, 4), 176, 4, 2, True),
            Row("MB7", (3, 3), (5, 5), 208, 1, 1, True),
        ),
        head_expansion=5,
        head_channels=1984,
    ),
    # A is B at a lower resolution.
    "fbnetv3_a": Arch(
        resolution=224,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 2, 1, False),
            Row("MB2", (5, 5), (4, 2), 24, 4, 2, False),
            Row("MB3", (5, 5), (5, 3), 40, 5, 2, True),
            Row("MB4", (5, 3), (5, 3), 72, 5, 2, False, padding=1),
            Row("MB5", (3, 5), (5, 3), 120, 6, 1, True),
            Row("MB6", (3, 5), (6, 4), 184, 6, 2, True, padding=0),
            Row("MB7", (5, 5), (6, 6), 224, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_b": Arch(
        resolution=248,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 2, 1, False),
            Row("MB2", (5, 5), (4, 2), 24, 4, 2, False),
            Row("MB3", (5, 5), (5, 3), 40, 5, 2, True),
            Row("MB4", (5, 3), (5, 3), 72, 5, 2, False, padding=1),
            Row("MB5", (3, 5), (5, 3), 120, 6, 1, True),
            Row("MB6", (3, 5), (6, 4), 184, 6, 2, True, padding=0),
            Row("MB7", (5, 5), (6, 6), 224, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_c": Arch(
        resolution=248,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 2, 1, False),
            Row("MB2", (5, 3), (5, 3), 24, 5, 2, False),
            Row("MB3", (5, 5), (5, 2), 48, 5, 2, True),
            Row("MB4", (5, 3), (4, 3), 88, 5, 2, False, padding=1),
            Row("MB5", (3, 5), (4, 3), 120, 6, 1, True),
            Row("MB6", (5, 5), (5, 5), 216, 6, 2, True, padding=1),
            Row("MB7", (5, 5), (6, 6), 216, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_d": Arch(
        resolution=248,
        stem_channels=24,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 2, 1, False),
            Row("MB2", (3, 3), (5, 2), 24, 6, 2, False),
            Row("MB3", (5, 3), (4, 3), 40, 5, 2, True),
            Row("MB4", (3, 3), (5, 3), 72, 5, 2, False),
            Row("MB5", (3, 5), (5, 3), 128, 7, 1, True),
            Row("MB6", (3, 5), (6, 5), 208, 6, 2, True),
            Row("MB7", (5, 5), (6, 6), 240, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_e": Arch(
        resolution=264,
        stem_channels=24,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 3, 1, False),
            Row("MB2", (5, 5), (4, 2), 24, 5, 2, False),
            Row("MB3", (5, 5), (4, 3), 48, 5, 2, True),
            Row("MB4", (5, 3), (5, 3), 80, 5, 2, False, padding=1),
            Row("MB5", (3, 5), (5, 3), 128, 8, 1, True),
            Row("MB6", (3, 5), (6, 5), 216, 6, 2, True),
            Row("MB7", (5, 5), (6, 6), 240, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_f": Arch(
        resolution=272,
        stem_channels=24,
        rows=(
            Row("MB1", (3, 3), (1, 1), 24, 3, 1, False),
            Row("MB2", (5, 5), (4, 2), 32, 5, 2, False),
            Row("MB3", (5, 5), (4, 3), 56, 5, 2, True),
            Row("MB4", (5, 3), (5, 3), 88, 5, 2, False),
            Row("MB5", (3, 5), (5, 3), 144, 9, 1, True),
            Row("MB6", (3, 5), (6, 5), 248, 7, 2, True, padding=0),
            Row("MB7", (5, 5), (6, 6), 272, 1, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    "fbnetv3_g": Arch(
        resolution=320,
        stem_channels=32,
        rows=(
            Row("MB1", (3, 3), (1, 1), 24, 3, 1, False),
            Row("MB2", (5, 5), (4, 2), 40, 5, 2, False),
            Row("MB3", (5, 5), (4, 3), 56, 5, 2, True),
            Row("MB4", (5, 3), (5, 3), 104, 5, 2, False),
            Row("MB5", (3, 5), (5, 3), 160, 9, 1, True),
            Row("MB6", (3, 5), (6, 5), 264, 7, 2, True),
            Row("MB7", (5, 5), (6, 6), 288, 2, 1, True),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    # A later teacher network, not in the paper; published without weights.
    "fbnetv3_20g": Arch(
        resolution=256,
        stem_channels=32,
        rows=(
            Row("MB1", (3, 3), (1, 1), 32, 2, 1, False, groups=(1, 1)),
            Row("MB2", (5, 5), (4, 1), 108, 6, 2, False, groups=(2, 2)),
            Row("MB3", (5, 5), (2, 2), 160, 6, 2, True, groups=(2, 4)),
            Row("MB4", (5, 3), (2, 2), 256, 7, 2, False, groups=(4, 4)),
            Row("MB5", (3, 5), (2, 2), 348, 10, 1, True, groups=(4, 6)),
            Row("MB6", (3, 5), (2, 2), 580, 11, 2, True, groups=(6, 10)),
        ),
        head_expansion=6,
        head_channels=3200,
    ),
    # The paper's recipe-only search trains "FBNetV2-L3", a scaled FBNetV2-L2 at 256 pixels, whose
    # architecture was not published. This is the closest public one, FBNetV2's "dmasking_l3"
    # (288 pixels, 750.7 M MACs, 9.40 M parameters published). "skip" rows that are identities are
    # left out; the last one of MB6 changes the width and is the 1x1 convolution of row MB7.
    # Activations follow the public description; squeeze-and-excite is the one of this package.
    "fbnetv2_l3": Arch(
        resolution=288,
        stem_channels=24,
        stem_act="relu",
        rows=(
            Row("MB1", (3, 3), (1, 1), 24, 1, 1, False, act="relu"),
            Row("MB2a", (5, 5), (5.4566, 1.7912), 32, 2, 2, False, act="relu"),
            Row("MB2b", (3, 5), (1.7912, 1.7912), 32, 2, 1, False, act="relu"),
            Row("MB3a", (5, 5), (5.3501, 5.3501), 48, 1, 2, True, act="relu"),
            Row("MB3b", (5, 5), (3.5379, 4.5379), 40, 3, 1, True, act="relu"),
            Row("MB4a", (5, 3), (5.7133, 2.1212), 72, 2, 2, False),
            Row("MB4b", (3, 3), (3.1246, 3.1246), 72, 1, 1, False),
            Row("MB5a", (3, 3), (5.0333, 5.0333), 120, 1, 1, False),
            Row("MB5b", (5, 5), (2.5070, 1.7712), 120, 2, 1, True),
            Row("MB5c", (5, 5), (2.7712, 3.7712), 120, 4, 1, True),
            Row("MB6a", (3, 5), (5.5685, 2.84), 192, 3, 2, True),
            Row("MB6b", (5, 5), (4.8754, 4.8754), 192, 2, 1, True),
            Row("MB7", (1, 1), (1, 1), 240, 1, 1, False),
        ),
        head_expansion=6,
        head_channels=1984,
    ),
    # Designed for this project: small enough to ship its weights inside the package.
    "fbnetv3_nano": Arch(
        resolution=224,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 1, 1, False),
            Row("MB2", (5, 3), (4, 3), 24, 2, 2, False),
            Row("MB3", (5, 3), (4, 3), 32, 2, 2, True),
            Row("MB4", (5, 3), (4, 3), 56, 2, 2, False),
            Row("MB5", (3, 5), (4, 3), 64, 2, 1, True),
            Row("MB6", (3, 5), (4, 4), 88, 2, 2, True),
        ),
        head_expansion=4,
        head_channels=512,
    ),
    # Found on CIFAR-10 by this project's own search (`benchmarks/results/nars_cifar/`), within 1.5,
    # 2.25 and 3.25 M MACs. Made for 32 pixels: MB2 has stride 1.
    "nars_cifar_s": Arch(
        resolution=32,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 8, 2, 1, False),
            Row("MB2", (3, 3), (3, 3), 8, 1, 1, False),
            Row("MB3", (3, 3), (3, 3), 24, 1, 2, True),
            Row("MB4", (3, 3), (5, 5), 32, 1, 2, False),
            Row("MB5", (5, 3), (5, 2), 32, 2, 1, True),
            Row("MB6", (5, 5), (5, 5), 48, 1, 2, True),
        ),
        head_expansion=3,
        head_channels=256,
    ),
    "nars_cifar_m": Arch(
        resolution=32,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 1, 1, False),
            Row("MB2", (3, 3), (2, 2), 16, 1, 1, False),
            Row("MB3", (3, 3), (3, 3), 32, 1, 2, True),
            Row("MB4", (3, 3), (5, 5), 32, 1, 2, False),
            Row("MB5", (5, 3), (5, 4), 32, 2, 1, True),
            Row("MB6", (5, 5), (5, 5), 80, 1, 2, True),
        ),
        head_expansion=3,
        head_channels=256,
    ),
    "nars_cifar_l": Arch(
        resolution=32,
        stem_channels=16,
        rows=(
            Row("MB1", (3, 3), (1, 1), 16, 1, 1, False),
            Row("MB2", (3, 3), (2, 2), 16, 1, 1, False),
            Row("MB3", (5, 5), (4, 4), 32, 1, 2, True),
            Row("MB4", (3, 3), (5, 5), 32, 1, 2, False),
            Row("MB5", (5, 5), (5, 4), 48, 2, 1, True),
            Row("MB6", (5, 5), (5, 2), 80, 2, 2, True),
        ),
        head_expansion=3,
        head_channels=256,
    ),
}
