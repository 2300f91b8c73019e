"""Samples into kaldi-native-fbank without a Python number a sample.

The library's Python method takes a sequence of Python floats, which costs as much as the features themselves and keeps
other threads waiting. What it calls is exported by the same file, `AcceptWaveform(float, const float*, int32_t)`, and
is called here on an array where it lies. That hangs on how this version of the library lays out its objects, so any
other version is used through its Python method: slower, the same numbers.
"""

import ctypes
import functools

import numpy

_KNOWN_VERSION = "1.23.0"
# knf::OnlineGenericBaseFeature<knf::FbankComputer>::AcceptWaveform(float, float const*, int), as the C++ ABI of both
# architectures spells it.
_METHOD = "_ZN3knf24OnlineGenericBaseFeatureINS_13FbankComputerEE14AcceptWaveformEfPKfi"


def accept_waveform(library, extractor, options):
    """A function that gives a C-contiguous float32 array, flattened, to `extractor`.

    Args:
        library: the module kaldi_native_fbank.
        extractor: an OnlineFbank of it; the function keeps it alive.
        options: the FbankOptions that it was made with.
    """
    rate_hz = options.frame_opts.samp_freq
    method, address = _method(library), _address(library, extractor, options)
    if method is None or address is None:
        return functools.partial(_through_python, extractor, rate_hz)
    return functools.partial(_directly, method, address, extractor, rate_hz)


def _through_python(extractor, rate_hz, samples):
    extractor.accept_waveform(rate_hz, samples.ravel().tolist())


def _directly(method, address, extractor, rate_hz, samples):
    # The extractor is given as well: as long as this function can be called, what `address` points at must be there.
    if samples.dtype != numpy.float32 or not samples.flags.c_contiguous:
        raise ValueError("samples for {} must be contiguous float32".format(extractor))
    method(address, rate_hz, samples.ctypes.data, samples.size)


def _method(library):
    """The exported C++ method; None where this is another version, or the method is not exported."""
    if library.__version__ != _KNOWN_VERSION:
        return None
    try:
        method = ctypes.CDLL(library.lib._kaldi_native_fbank.__file__)[_METHOD]
    except (OSError, AttributeError):
        return None
    method.argtypes = (ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p, ctypes.c_int32)
    method.restype = None
    return method


def _address(library, extractor, options):
    """Where the C++ object lies; None unless what lies there is plainly it.

    pybind11 keeps a pointer to it right after the object header. It begins with its options: rate, shift and length.
    """
    if library.__version__ != _KNOWN_VERSION:
        return None
    address = ctypes.c_void_p.from_address(id(extractor) + object.__basicsize__).value
    frame = options.frame_opts
    expected = (frame.samp_freq, frame.frame_shift_ms, frame.frame_length_ms)
    return address if address and tuple((ctypes.c_float * 3).from_address(address)) == expected else None
