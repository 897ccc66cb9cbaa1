"""Words below a picture."""

import numpy as np

from cnn_jax.report.captions import with_caption


def test_a_caption_stands_below_and_widens(generator):
    image = generator.integers(0, 255, (20, 200, 3), np.uint8)
    labelled = with_caption(image, "cat 0.98")
    np.testing.assert_array_equal(labelled[:20], image)
    assert (labelled[20:] < 128).any()
    longer = with_caption(image, "a caption much longer than the image is wide, truly")
    left = (longer.shape[1] - 200) // 2
    assert left > 0
    np.testing.assert_array_equal(longer[:20, left : left + 200], image)
    assert (longer[:, -3:] == 255).all()
    assert with_caption(image, "two\nlines").shape[0] > labelled.shape[0]
