"""Another corpus of TIMIT's shape: the demo's speakers say other sentences, fewer of them. Runs in image synth."""

from stages import demo_corpus
from stages.shared import stage

demo_corpus._SEED = "another corpus than the demo's"
demo_corpus.SENTENCES_A_SPEAKER = {"train": 2, "dev": 2, "test": 1}

if __name__ == "__main__":
    stage.run(demo_corpus.main)
