"""Has the verifiers of `examples` judge many files in one process.

    judge.py EXAMPLES CASES     EXAMPLES: that directory; CASES: JSON lines, first the list of geneses, then {"kind", "genesis", "text": base64}

Prints a JSON line for each case: what the file proves, or null. What a verifier raises and does not count as a refusal ends the run.
"""
import base64
import json
import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True

import verify
import verify_evidence
import verify_log

VERIFIERS = {"commit-proof": verify.verify, "consistency-proof": verify_log.verify, "evidence": verify_evidence.verify}


def judge(case, geneses):
    try:
        return VERIFIERS[case["kind"]](geneses[case["genesis"]], base64.b64decode(case["text"]))
    except verify.BROKEN:
        return None


with open(sys.argv[2]) as lines:
    geneses = json.loads(next(lines))
    for number, line in enumerate(lines):
        try:
            print(json.dumps(judge(json.loads(line), geneses)))
        except Exception as error:
            raise SystemExit(f"case {number}: {error!r}") from error
