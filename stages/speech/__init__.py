"""From samples to features: fbank and dither, portable and by Kaldi."""
