// Scripts that the soak found and shrank, each a fault that was there once: they must run well for good.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseScript, runEpisode } from "./index.ts";

const FOUND: readonly (readonly [what: string, lines: readonly string[]])[] = [
  [
    "munmap() of a page that was only read left the zero page in the TLB (S8)",
    [
      '{"preset":"cordon","model":"skx","commandLine":"asi=on","cpus":1,"memoryMegabytes":64,"processes":1}',
      '{"slot":0,"action":"mmap","args":[9,1,1]}',
      '{"slot":0,"action":"touch","args":[0,9,0]}',
      '{"slot":0,"action":"munmap","args":[0,9,0]}',
      '{"slot":0,"action":"mmap","args":[0,3,3]}',
      '{"slot":0,"action":"touch","args":[1,0,0]}',
    ],
  ],
  [
    "an NMI in the entry of a system call overwrote registers that were saved below RSP",
    [
      '{"preset":"cordon","model":"skx","commandLine":"asi=on","cpus":1,"memoryMegabytes":48,"processes":2}',
      '{"slot":1,"action":"getpid","args":[],"inject":[{"kind":"nmi sensitive","at":25}]}',
      '{"slot":1,"action":"getpid","args":[],"inject":[{"kind":"suspend","at":194},{"kind":"nmi sensitive","at":25}]}',
    ],
  ],
  [
    "between a VM exit and the filling of the return stack the byte said that nothing was in it (S10, option rsb_taint)",
    [
      '{"preset":"cordon-fast","model":"skx","commandLine":"asi=on kvm-intel.vmentry_l1d_flush=never","cpus":1,"memoryMegabytes":48,"processes":1}',
      '{"slot":0,"action":"make vm","args":[]}',
      '{"slot":0,"action":"run guest","args":[1]}',
      '{"slot":0,"action":"run guest","args":[1],"inject":[{"kind":"nmi","at":120}]}',
    ],
  ],
  [
    "kill() of a process that had ended left its signal queued for ever (S9)",
    [
      '{"preset":"cordon","model":"skx","commandLine":"asi=on","cpus":1,"memoryMegabytes":64,"processes":2}',
      '{"slot":1,"action":"fork","args":[12]}',
      '{"slot":1,"action":"yield","args":[]}',
      '{"slot":1,"action":"kill child","args":[1]}',
    ],
  ],
  [
    "a page that was mapped ephemerally was still in L1D when user code went on (S10, S2, option ephmap)",
    [
      '{"preset":"cordon-fast","model":"skx","commandLine":"asi=on kvm-intel.vmentry_l1d_flush=never","cpus":2,"memoryMegabytes":64,"processes":3}',
      '{"slot":2,"action":"pipe","args":[]}',
      '{"slot":2,"action":"copy to kernel","args":[2,1,10]}',
    ],
  ],
  [
    "what a task went on with after a switch on its way to user mode was not what its path is run again by",
    [
      '{"preset":"cordon","model":"skx","commandLine":"asi=on kvm-intel.vmentry_l1d_flush=never","cpus":2,"memoryMegabytes":64,"processes":4}',
      '{"slot":1,"action":"yield","args":[]}',
      '{"slot":1,"action":"yield","args":[],"inject":[{"kind":"suspend","at":96}]}',
    ],
  ],
  [
    "what a guest had written was a stranger's to the child that its monitor forked",
    [
      '{"preset":"cordon","model":"skx","commandLine":"asi=on kvm-intel.vmentry_l1d_flush=never","cpus":1,"memoryMegabytes":56,"processes":4}',
      '{"slot":2,"action":"mmap","args":[3,3,0]}',
      '{"slot":2,"action":"fork","args":[8]}',
      '{"slot":7,"action":"mmap","args":[9,3,3]}',
      '{"slot":7,"action":"munmap","args":[1,2,11]}',
      '{"slot":7,"action":"make vm","args":[]}',
      '{"slot":7,"action":"run guest","args":[4]}',
      '{"slot":7,"action":"fork","args":[12]}',
      '{"slot":11,"action":"touch","args":[0,11,0]}',
    ],
  ],
];

for (const [what, lines] of FOUND) {
  test(`found by the soak: ${what}`, () => {
    assert.equal(runEpisode(parseScript(lines.join("\n"), "script")).failure?.message, undefined);
  });
}
