// NMIs at every point of a system call, on the machine that has instructions: the entry's window in which RSP is the user's, the return
// by SYSRET and by IRET, and page faults inside NMIs, which let the next NMI in.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SYS } from "../../abi/index.ts";
import { cpuId, fail, findCpuModel, type Observer, type Puppet, type PuppetView } from "../../hardware/index.ts";
import { SimulatedMachine } from "../../machine/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { TRACE_NMI, TRACE_PROCESS_EXIT, TRACE_WARN } from "../trace.ts";

const CALLS = 2500;
/** The kernel boots in far fewer cycles. */
const BOOTED_BY = 20_000;
const NMIS = 3000;

/** Calls getpid() again and again; exits with 1 if it ever answers wrongly, else with 7. */
const caller: Puppet = (view: PuppetView) => {
  const done = view.state.getUint32(0, true);
  view.state.setUint32(0, done + 1, true);
  if (done > 0 && view.result !== 1) return { kind: "syscall", number: SYS.exit, args: [1] };
  if (done === CALLS) return { kind: "syscall", number: SYS.exit, args: [7] };
  return { kind: "syscall", number: SYS.getpid, args: [] };
};

/** Cycles between two NMIs: more than one takes, and varied, or they would meet the same instructions again and again. */
function spacing(i: number): number {
  return 400 + ((i * 7919) % 397);
}

test("an NMI at any point of a system call changes nothing", () => {
  const nmis: { readonly isUser: boolean; readonly rip: number }[] = [];
  const exits: number[] = [];
  let warnings = 0;
  const observer: Observer = {
    trace: (event, a, b, c) => {
      if (event === TRACE_NMI) nmis.push({ isUser: a === 1, rip: c });
      if (event === TRACE_PROCESS_EXIT) exits.push(b);
      if (event === TRACE_WARN) warnings++;
    },
    frameOwner: () => undefined,
    context: () => undefined,
    print: () => undefined,
  };
  const image = buildKernelImage({
    preset: "cordon",
    processes: [{ name: "caller", puppet: "caller" }],
    puppets: new Map([["caller", caller]]),
  });
  const machine = new SimulatedMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: 64 * 2 ** 20,
    cpus: 1,
    gear: "architectural",
    image,
    commandLine: "asi=on",
    observer,
  });
  let time = BOOTED_BY;
  for (let i = 0; i < NMIS; i++) {
    machine.injectNmi(cpuId(0), time);
    time += spacing(i);
  }
  machine.run(20_000_000);
  assert.deepEqual(exits, [7]);
  assert.equal(warnings, 0);
  const between = (from: string, to: string): number =>
    nmis.filter(({ rip, isUser }) => !isUser && rip >= symbolAddress(from) && rip < symbolAddress(to)).length;
  const counts = {
    user: nmis.filter(({ isUser }) => isUser).length,
    kernel: nmis.filter(({ isUser }) => !isUser).length,
    entry: between("entry_SYSCALL_64", "entry_SYSCALL_64_safe_stack"),
    exit: between("entry_SYSRETQ_unsafe_stack", "entry_SYSRETQ_end"),
  };
  for (const [where, count] of Object.entries(counts)) assert.ok(count >= 2, `${JSON.stringify(counts)}: NMIs met ${where} ${count} times`);
});
