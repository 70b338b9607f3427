"""python .ci/spills.py LOG: fail if a kernel spills registers, by the output of ptxas -v."""

import re
import sys
from pathlib import Path

kernel, kernels, spilling, most = "", 0, [], 0
for line in Path(sys.argv[1]).read_text().splitlines():
    if found := re.search(r"Compiling entry function '(\w+)'", line):
        kernel, kernels = found[1], kernels + 1
    elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
        if int(found[1]) or int(found[2]):
            spilling.append(f"{kernel}: {found[0]}")
    elif found := re.search(r"Used (\d+) registers", line):
        most = max(most, int(found[1]))

if not kernels:
    sys.exit("no kernel was compiled: nothing was checked")
print(f"{kernels} kernels, at most {most} registers, {len(spilling)} spill")
if spilling:
    sys.exit("\n".join(spilling))
