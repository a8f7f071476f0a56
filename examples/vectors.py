"""Holds a verifier against a file of frozen vectors."""
import json


def check(path, verify, refusals):
    """Every case is proved with the outputs that the file says, and refused with any byte of it flipped."""
    with open(path, "rb") as file:
        cases = json.load(file)["cases"]
    for case in cases:
        genesis, text = case["input"]["genesis"], case["output"]["json"].encode()
        for name, value in verify(genesis, text).items():
            if value != case["output"][name]:
                raise ValueError(f"{path}: {name} is {value!r}, not {case['output'][name]!r}")
        for at in range(len(text)):
            try:
                verify(genesis, text[:at] + bytes([text[at] ^ 1]) + text[at + 1:])
            except refusals:
                continue
            raise ValueError(f"{path}: a flip of byte {at} was accepted")
    print(f"{len(cases)} cases of {path} verified, every flipped byte refused")
    return 0
