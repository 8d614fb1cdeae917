"""pool.py OUT COUNT SEED [--all]: scenes of the world as arrays, for the other scripts."""

import sys

import numpy as np

from sd3tune.demo import scenes

EVERYTHING = scenes.SceneWords(scenes.SHAPES, tuple(scenes.COLOURS), scenes.TEXTURES, ())


def main(out: str, count: int, seed: int, words: scenes.SceneWords) -> None:
    made = list(scenes.scenes(seed, count, words))
    pixels = np.stack([np.asarray(scenes.draw(each, 64)) for each in made])
    np.savez(out, pixels=pixels, captions=np.array([each.caption for each in made]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]),
         EVERYTHING if "--all" in sys.argv else scenes.KNOWN)  # fmt: skip
