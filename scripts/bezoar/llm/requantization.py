"""A GGUF file with its quantised weights in another type. How fast llama.cpp reads a prompt depends
on the type: on AVX2 it has a fast matrix kernel for Q8_0, and none for Q4_1.
"""

import math
from pathlib import Path

from bezoar.errors import UserError, reason, shortage


def requantize(weights: Path, copy: Path, kind: str) -> int:
    """Write `copy`, the GGUF file `weights` with every quantised tensor in the type `kind`, such as
    Q8_0, and return how many had another; metadata and other tensors stay as they are.

    Raise `UserError` if it is no GGUF file, or if it has a type that cannot be dequantised.
    """
    import gguf
    import numpy as np

    types, array = gguf.GGMLQuantizationType, gguf.GGUFValueType.ARRAY
    kept, wanted = {types.F64, types.F32, types.F16, types.BF16, types[kind]}, types[kind]
    own = ("general.architecture", "general.file_type")  # the writer's
    try:
        read = gguf.GGUFReader(weights)
        writer = gguf.GGUFWriter(copy, read.fields[own[0]].contents())
        writer.data_alignment = read.alignment
        for field in read.fields.values():
            if not field.name.startswith("GGUF.") and field.name not in own:
                inner = field.types[-1] if field.types[0] == array else None
                writer.add_key_value(field.name, field.contents(), field.types[0], inner)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
        for tensor in read.tensors:
            found, held = np.asarray(tensor.data), tensor.tensor_type
            shape = found.shape
            if held not in kept:
                shape = gguf.quant_shape_to_byte_shape(tensor.shape[::-1].tolist(), wanted)
                held = wanted
            size = math.prod(shape) * found.itemsize
            writer.add_tensor_info(tensor.name, shape, found.dtype, size, raw_dtype=held)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        changed = 0
        for tensor in read.tensors:  # one at a time in memory
            values, held = np.asarray(tensor.data), tensor.tensor_type
            if held not in kept:
                values = gguf.quants.quantize(gguf.quants.dequantize(values, held), wanted)
                changed += 1
            writer.write_tensor_data(values)
        writer.close()
    except Exception as error:  # the package raises whatever a damaged file leads to
        copy.unlink(missing_ok=True)
        if shortage(error) or isinstance(error, OSError):
            raise
        raise UserError(
            f"{weights}: cannot be requantised to {kind} ({reason(error)}); fetch it again, or"
            " remove serve.requantize"
        ) from None
    return changed
