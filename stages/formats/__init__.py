"""Files as they lie on disk: speech data, waves, labels, Kaldi archives, batches, language models, checkpoints."""
