"""Arguments, results and errors as JSON text and back: encoding.py, decoding.py, failures.py.

Enqueueing encodes, the worker decodes, calls and encodes the outcome, AsyncResult decodes that. coercion.py rebuilds
dataclasses, models, enums and tuples where a task's signature asks for them.
"""

from pgqueue.codec.coercion import Coercion, coercer_for
from pgqueue.codec.decoding import decode_args, decode_headers, decode_kwargs, decode_result
from pgqueue.codec.encoding import MAX_BYTES, MAX_DEPTH, encode_call, encode_headers, encode_result
from pgqueue.codec.failures import MAX_TEXT_BYTES, clean_text, decode_error, encode_error, loaded_exception, type_name

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_TEXT_BYTES",
    "Coercion",
    "clean_text",
    "coercer_for",
    "decode_args",
    "decode_error",
    "decode_headers",
    "decode_kwargs",
    "decode_result",
    "encode_call",
    "encode_error",
    "encode_headers",
    "encode_result",
    "loaded_exception",
    "type_name",
]
