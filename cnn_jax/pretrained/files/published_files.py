"""The preparation of images for weights in the files of torchvision and timm.

They are for ImageNet's 1,000 classes and for models of the registry. A library's newer
weights may want another crop than its first ones for the same model, and timm's other
images than torchvision's: so it is known for each file.
"""

from __future__ import annotations

from cnn_jax.preprocessing import Preprocessing

_HALF = ((0.5,) * 3, (0.5,) * 3)

_DIGITS_BY_PREPROCESSING = {
    Preprocessing(160, crop_fraction=0.95, interpolation="bicubic"): (
        "134d4688 1db14157 317ecd56 3e450271 40c531c8 59cae1ef a20cabb6"
    ),
    Preprocessing(176, crop_fraction=0.9, interpolation="bicubic"): "001a1197",
    Preprocessing(224, interpolation="bicubic"): (
        "0757602b 0ebe02e2 3b017079 3dd342df 43635321 533bc792 6c502b37 74cb7081 "
        "7f5810bc 8234f177 85ebb6e5 86acaeed 8efdb4bb a26f946b b33bc2c4 c1edb0dd "
        "c6d82d59 d733960d e6a097c1 f9a8e184"
    ),
    Preprocessing(224, *_HALF, interpolation="bicubic"): "0aa007d2",
    Preprocessing(224): (
        "047dcff4 0676ba61 08389792 118f1556 16a12f1b 19584684 2cfe2f8b 32ee1156 "
        "394f9c45 397923af 3ffadce6 5666bf0f 6002323d 63fe2227 6c64b313 72679e44 "
        "7be5be79 7cdf4587 8738ca79 8a719046 8ba56ff5 8d451a50 95faca4d a639ec97 "
        "abd245e5 b0353104 b2777c0a b4712904 b627a593 b66bff10 b8a52dc0 c1103571 "
        "c38310e5 c79401a0 d92f0530 dcbb9e9d ddb3e555 f206786e f37072fd f707e712"
    ),
    Preprocessing(224, *_HALF): "1378be20",
    Preprocessing(224, crop_fraction=224 / 236): "983f1562",
    Preprocessing(224, crop_fraction=0.95, interpolation="bicubic"): (
        "0146ab0a 0d0e0cc0 14fe96d1 1ba180c1 2eee8a7a 36d3f2aa 46f8f793 532a802a "
        "5ba5e060 6edb36c7 82d47d71 850de0d9 a2746f79 b4c6978f b5a91a1d b61bd467 "
        "cdcb52a9 d01e05b2 d63eafa0 dc400468 efc76add f39db8af ffa00869"
    ),
    Preprocessing(224, crop_fraction=224 / 232): (
        "110c445d 11ad3fa6 173b62eb 1a0047aa 3c479a10 5c1a4163 6075fbad 7090bc5f "
        "7ebf99e0 8be3c8ee 9ba9bcbe a4c69d6f cd907fc2 d733dc28 ea097f82 f82ba261"
    ),
    Preprocessing(224, crop_fraction=224 / 230): "0c510722",
    Preprocessing(
        240, *_HALF, crop_fraction=0.882, interpolation="bicubic"
    ): "bde8b488",
    Preprocessing(240, crop_fraction=240 / 256, interpolation="bicubic"): "bac287d4",
    Preprocessing(240, crop_fraction=240 / 255): "c27df63c",
    Preprocessing(256, interpolation="bicubic"): "bcdf34b7",
    Preprocessing(260, *_HALF, crop_fraction=0.89, interpolation="bicubic"): "dcccb7df",
    Preprocessing(288, interpolation="bicubic"): "cf984f9c",
    Preprocessing(288, crop_fraction=1.0, interpolation="bicubic"): "c35c1473",
    Preprocessing(299, *_HALF, crop_fraction=299 / 342): "0cc3c7bd",
    Preprocessing(299, *_HALF, interpolation="bicubic"): "1a9a5a14",
    Preprocessing(300, *_HALF, crop_fraction=0.904): "b733e338",
    Preprocessing(300, crop_fraction=300 / 320, interpolation="bicubic"): "b3899882",
    Preprocessing(320, interpolation="bicubic"): "7eb33cd5",
    Preprocessing(380, *_HALF, crop_fraction=0.92): "741542c3",
    Preprocessing(380, crop_fraction=380 / 384, interpolation="bicubic"): "23ab8bcd",
    Preprocessing(384, crop_fraction=1.0): "dd5fe13b",
    Preprocessing(456, crop_fraction=1.0, interpolation="bicubic"): "1a07897c",
    Preprocessing(480, *_HALF, crop_fraction=1.0, interpolation="bicubic"): "59c71312",
    Preprocessing(480, crop_fraction=1.0): "dc08266a",
    Preprocessing(528, crop_fraction=1.0, interpolation="bicubic"): "24a108a5",
    Preprocessing(600, crop_fraction=1.0, interpolation="bicubic"): "c5b4e57e",
}

PREPROCESSING_BY_DIGITS = {
    digits: preprocessing
    for preprocessing, listed in _DIGITS_BY_PREPROCESSING.items()
    for digits in listed.split()
}
"""The first digits of a file's sha256, which its name ends in -> its preparation."""
