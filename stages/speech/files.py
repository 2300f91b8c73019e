"""What the features stage's files are called."""

SPLITS = ("train", "dev", "test")
CMVN = "global_fbank_cmvn.txt"
