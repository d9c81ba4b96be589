// FRED (arch/x86/entry/entry_fred.c, entry_64_fred.S): no gates, no IRET. Every event from user mode comes to one entry, every event from
// the kernel to another, with a frame that says what it was; from there to the handlers that the IDT's entries trap to, whose hooks of
// address space isolation are theirs here too.

import {
  addVirt,
  CR4_FRED,
  cpu,
  fail,
  hex,
  high32,
  low32,
  MSR_IA32_FRED_CONFIG,
  MSR_IA32_FRED_RSP0,
  MSR_IA32_FRED_RSP1,
  MSR_IA32_FRED_RSP2,
  MSR_IA32_FRED_RSP3,
  MSR_IA32_FRED_STKLVLS,
  ptr,
  VECTOR_DB,
  VECTOR_DF,
  VECTOR_MC,
  VECTOR_NMI,
  type VirtAddr,
} from "../../hardware/index.ts";
import { commandLineChoice } from "../boot/command-line.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { fredFeature, ptiFeature } from "../mitigations/feature-keys.ts";
import { topOfStack } from "../sched/current.ts";
import type { StubProgram } from "../stub-program.ts";
import { printk } from "../trace.ts";
import { istTop } from "./entry-area.ts";
import { popRegisters, pushAndClearRegisters } from "./entry-registers.ts";
import { emitClearBhb, emitClearCpuBuffers, emitIbrsEnter, emitIbrsExit } from "./entry-switches.ts";
import { PtRegs } from "./pt-regs.ts";
import { IA32_SYSCALL_VECTOR, IST_INDEX_DB, IST_INDEX_DF, IST_INDEX_NMI } from "./vectors.ts";

/** Types of events, in the frame. FRED specification, 5.2.1. */
const TYPE_INTERRUPT = 0;
const TYPE_NMI = 2;
const TYPE_SOFTWARE_INTERRUPT = 4;
const TYPE_OTHER = 7;
/** Vectors of TYPE_OTHER. */
const FRED_SYSCALL = 1;

/** The entry of ring 0 lies so far behind that of ring 3, which is page-aligned. */
const RING0_ENTRY_BYTES = 256;
const PAGE_ALIGNMENT = 4096;
const INT3 = 0xcc;
export const FRED_ENTRY = "asm_fred_entrypoint_user";
export const FRED_EXIT_USER = "asm_fred_exit_user";
const FRED_ERETU = "asm_fred_exit_user.eretu";

const CPUID_7_1_EAX_FRED = 1 << 17;

/** `fred=on` on a CPU that has it (kernel: the option's default is off). Not with PTI: no CPU needs both, and the entries switch no tables. */
export function fredCheckBoottime(commandLine: string): void {
  if (commandLineChoice(commandLine, "fred", ["on", "off"]) !== "on") return;
  if ((cpu.cpuid(7, 1, 0) & CPUID_7_1_EAX_FRED) === 0) return;
  if (ptiFeature.isEnabled()) {
    printk("fred: not with page-table isolation");
    return;
  }
  fredFeature.set(1);
}

/** Loads this CPU's stacks and entry, and turns FRED on (kernel: `cpu_init_fred_exceptions()`, `cpu_init_fred_rsps()`). */
export function cpuInitFred(): void {
  if (!fredFeature.isEnabled()) return;
  const put = (msr: number, value: VirtAddr): void => cpu.writeMsr(msr, low32(value), high32(value));
  put(MSR_IA32_FRED_RSP0, topOfStack.get());
  put(MSR_IA32_FRED_RSP1, istTop(IST_INDEX_DB));
  put(MSR_IA32_FRED_RSP2, istTop(IST_INDEX_NMI));
  put(MSR_IA32_FRED_RSP3, istTop(IST_INDEX_DF));
  // Two bits a vector; those below 16 are in the low half.
  const low = (1 << (2 * VECTOR_DB)) | (2 << (2 * VECTOR_NMI)) | (3 << (2 * VECTOR_DF));
  cpu.writeMsr(MSR_IA32_FRED_STKLVLS, low, 2 << (2 * VECTOR_MC - 32));
  put(MSR_IA32_FRED_CONFIG, symbolAddress(FRED_ENTRY));
  cpu.writeCr4(cpu.readCr4() + CR4_FRED);
}

/** Handlers by vector; `syscall` and its kin are no vectors. */
export interface FredHandlers {
  readonly byVector: ReadonlyMap<number, () => void>;
  readonly syscall: () => void;
  readonly fastSyscall32: () => void;
  readonly int80: () => void;
}

function describe(regs: PtRegs): string {
  return `RIP ${hex(regs.rip)}, RSP ${hex(regs.rsp)}`;
}

function copyRaxToOrig(regs: PtRegs): void {
  const low = cpu.load64(addVirt(regs.address, PtRegs.offset.rax));
  cpu.store64(addVirt(regs.address, PtRegs.offset.origRax), low, cpu.high);
}

/** Where the frame says what happened: the upper half of SS's word: vector, type. */
const EVENT = PtRegs.offset.ss + 4;

/** Kernel: `fred_entry_from_user()`. */
export function fredEntryFromUser(handlers: FredHandlers): () => void {
  return () => {
    const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
    const event = cpu.load(addVirt(regs.address, EVENT), 4);
    const vector = event & 0xff;
    const type = (event >>> 16) & 0xf;
    if (type === TYPE_OTHER) {
      copyRaxToOrig(regs);
      if (vector === FRED_SYSCALL) handlers.syscall();
      else handlers.fastSyscall32();
      return;
    }
    if (type === TYPE_SOFTWARE_INTERRUPT && vector === IA32_SYSCALL_VECTOR) {
      copyRaxToOrig(regs);
      handlers.int80();
      return;
    }
    dispatch(handlers, regs, vector, type);
  };
}

function dispatch(handlers: FredHandlers, regs: PtRegs, vector: number, type: number): void {
  if (type === TYPE_INTERRUPT || type === TYPE_NMI) regs.origRax = -1;
  const handler = handlers.byVector.get(vector) ?? fail(`FRED: no handler of vector ${vector}, type ${type}: ${describe(regs)}`);
  handler();
}

/** Kernel: `fred_entry_from_kernel()`. A fault of ERETU is the user's: its frame comes again as if from there (ex_handler_eretu()). */
export function fredEntryFromKernel(handlers: FredHandlers): () => void {
  return () => {
    const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
    const event = cpu.load(addVirt(regs.address, EVENT), 4);
    const vector = event & 0xff;
    const type = (event >>> 16) & 0xf;
    if (regs.rip === symbolAddress(FRED_ERETU) && type !== TYPE_NMI && vector !== VECTOR_MC) {
      const user = regs.rsp as VirtAddr; // the kernel's own stack
      cpu.storeWord(user, regs.origRax);
      cpu.store(addVirt(user, EVENT - PtRegs.offset.origRax), 4, event);
      regs.rip = symbolAddress(FRED_ENTRY);
      return;
    }
    dispatch(handlers, regs, vector, type);
  };
}

/** Both entries, with nothing between them but what fills. They need instructions: the abstract machine has gates. */
export const fredStub: StubProgram = {
  symbol: "fred_entries",
  program: (a) => {
    a.align(PAGE_ALIGNMENT, INT3).label(FRED_ENTRY);
    pushAndClearRegisters(a);
    emitIbrsEnter(a, FRED_ENTRY);
    emitClearBhb(a, FRED_ENTRY);
    a.trap("fred_entry_from_user");
    a.label(FRED_EXIT_USER);
    emitIbrsExit(a, FRED_ENTRY);
    popRegisters(a);
    emitClearCpuBuffers(a, FRED_ENTRY);
    a.label(FRED_ERETU).db(0xf3, 0x0f, 0x01, 0xca);
    a.align(RING0_ENTRY_BYTES, INT3).label("asm_fred_entrypoint_kernel");
    pushAndClearRegisters(a);
    a.trap("fred_entry_from_kernel");
    popRegisters(a);
    a.db(0xf2, 0x0f, 0x01, 0xca);
  },
  effect: () => fail("FRED events need a machine with instructions"),
};
