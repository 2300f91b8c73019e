"""Run in an image with a MODEL: says what the kernels are, and the outputs' digests on one thread and on two."""

import hashlib
import sys

import numpy

from stages.model import network as model_network

rows = numpy.random.RandomState(5).standard_normal((1, 390, 243)).astype(numpy.float32)
rows[:, 300:] = 0.0
outputs = []
for threads in (1, 2):  # two keep step by atomic counters, which each architecture orders in its own way
    network = model_network.Network(sys.argv[1], threads=threads)
    outputs.append(network.run(rows))
print(network.description)
print(hashlib.sha256(outputs[0].tobytes()).hexdigest(), float(outputs[0].min()), float(outputs[0].max()))
print("two threads:", hashlib.sha256(outputs[1].tobytes()).hexdigest())
