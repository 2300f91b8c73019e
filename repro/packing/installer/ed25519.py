"""Ed25519, verification only, for machines that have nothing but Python (RFC 8032, 5.1.4 and 5.1.7).

Signing is done by a library (repro/packing/signing.py), and the tests hold this to it.
"""

import hashlib
from typing import Optional

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)
_Point = tuple[int, int, int, int]
_ZERO: _Point = (0, 1, 1, 0)


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiply(scalar: int, point: _Point) -> _Point:
    result = _ZERO
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _decode_point(data: bytes) -> Optional[_Point]:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= _P:
        return None
    x2 = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - x2) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return (x, y, 1, x * y % _P)


def _encode_point(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_BASE = _decode_point((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))


def ed25519_holds(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made by the owner of `public_key` (32 bytes).

    Stricter than RFC 8032 in one thing: a public key of small order, for which many messages share a signature, is
    refused.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    point, scalar = _decode_point(public_key), int.from_bytes(signature[32:], "little")
    if point is None or _BASE is None or scalar >= _L or _encode_point(_multiply(8, point)) == _encode_point(_ZERO):
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    negative = (-point[0] % _P, point[1], point[2], -point[3] % _P)
    found = _add(_multiply(scalar, _BASE), _multiply(int.from_bytes(digest, "little") % _L, negative))
    return _encode_point(found) == signature[:32]
