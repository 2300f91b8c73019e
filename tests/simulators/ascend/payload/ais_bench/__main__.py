"""The command line of the stand-in: one input, one output, static models."""

import argparse
import json
import os
import re
import sys
from importlib import metadata

import aclruntime
import numpy


def info(text):
    print("[INFO] " + text, flush=True)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", "-m", required=True)
    parser.add_argument("--input", "-i", default=None)
    parser.add_argument("--output", "-o", default=None)
    parser.add_argument("--output_dirname", default=None)
    parser.add_argument("--outfmt", default="BIN", choices=["NPY", "BIN", "TXT"])
    parser.add_argument("--loop", "-l", type=int, default=1)
    parser.add_argument("--device", "-d", type=int, default=0)
    parser.add_argument("--batchsize", type=int, default=None)
    parser.add_argument("--warmup_count", type=int, default=1)
    return parser.parse_args()


def natural(name):
    return [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", name)]


def input_files(folder):
    if not os.path.isdir(folder):
        aclruntime._play("no-input-folder", lstm_bin_bs8=folder)
    names = [name for name in os.listdir(folder) if name.lower().endswith((".npy", ".bin"))]
    if not names:
        aclruntime._play("no-input", lstm_bin_bs8=folder)
    return sorted((os.path.join(folder, name) for name in names), key=natural)


def statistics(times):
    times = times or [0.0]
    return {
        "min": min(times), "max": max(times), "mean": float(numpy.mean(times)), "median": float(numpy.median(times)),
        "percentile(99%)": float(numpy.percentile(times, 99)),
    }  # fmt: skip


def report(options, session, files, folder):
    times = session.sumary().exec_time_list
    compute = statistics(times)
    throughput = 1000 * options.batchsize / compute["mean"]
    memory = aclruntime.MemorySummary()
    info("-----------------Performance Summary------------------")
    info("NPU_compute_time (ms): min = {min}, max = {max}, mean = {mean}, median = {median}, percentile(99%) = {p99}"
         .format(p99=compute["percentile(99%)"], **compute))  # fmt: skip
    info(f"throughput 1000*batchsize.mean({options.batchsize})/NPU_compute_time.mean({compute['mean']}): {throughput}")
    info("------------------------------------------------------")
    if folder is None:
        return
    summary = {"filesinfo": files, "args": sys.argv, "throughput": throughput, "pid": os.getpid(),
               "NPU_compute_time": {**compute, "count": len(times)}, "npu_compute_time_list": times}  # fmt: skip
    for name, values in (("H2D_latency", memory.H2D_time_list), ("D2H_latency", memory.D2H_time_list)):
        summary[name] = {**statistics(values), "count": len(values)}
    with open(folder + "_summary.json", "w") as stream:
        json.dump(summary, stream)


def main():
    options = arguments()
    try:
        metadata.version("aclruntime")
    except metadata.PackageNotFoundError:
        print(aclruntime._recorded("aclruntime-unseen"), end="")
    session_options = aclruntime.session_options()
    session_options.loop = options.loop
    session = aclruntime.InferenceSession(options.model, options.device, session_options)
    session.set_staticbatch()
    desc = session.get_inputs()[0]
    if options.batchsize is None:
        options.batchsize = desc.shape[0]
        info(f"try get model batchsize:{options.batchsize}")
    folder = None
    if options.output is not None:
        folder = os.path.join(options.output, options.output_dirname)
        os.makedirs(folder, exist_ok=True)
        info(f"output path:{folder}")
    paths = [] if options.input is None else input_files(options.input)
    if paths:
        size = os.path.getsize(paths[0])
        if desc.realsize != size:  # the real one joins several files to a batch, which this pipeline never asks for
            aclruntime._play("sizes-differ", **{"3032640": str(desc.realsize), "379080": str(size)})
    names = [output.name for output in session.get_outputs()]
    first = numpy.fromfile(paths[0], dtype=numpy.int8) if paths else numpy.zeros(desc.realsize, dtype=numpy.uint8)
    session.options().loop = 1
    for _ in range(options.warmup_count):
        session.run(names, [aclruntime.Tensor(first)])
    session.options().loop = options.loop
    session.reset_sumaryinfo()
    aclruntime.MemorySummary().reset()
    info(f"warm up {options.warmup_count} done")
    files = {}
    for index, path in enumerate(paths or [None]):
        data = first if path is None else numpy.fromfile(path, dtype=numpy.int8)
        for number, output in enumerate(session.run(names, [aclruntime.Tensor(data)])):
            output.to_host()
            if folder is not None:
                target = os.path.join(folder, f"{os.path.basename(path).split('.')[0]}_{number}.npy")
                numpy.save(target, numpy.array(output))
                files[str(index)] = {"infiles": [path], "outfiles": [target]}
    report(options, session, files, folder)
    session.finalize()


main()
