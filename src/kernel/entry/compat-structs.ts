// Structures that are smaller for 32-bit programs. The system calls read and write those of 64 bits, in user memory: below the caller's
// stack is room for one, as Linux had it for long (kernel: compat_alloc_user_space()).
import { EFAULT, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";
import { giveUserBytes, withUserBytes } from "../linux/user-arguments.ts";
import { current } from "../sched/current.ts";
import { PtRegs, taskPtRegs } from "./pt-regs.ts";
import { SA_IA32_ABI } from "./signal-frame.ts";

/** Room for two structures, below what a signal's frame would not touch either. */
const SCRATCH_BELOW = 512;
const SECOND = 64;

function scratch(offset: number): number {
  const { rsp } = PtRegs.at(taskPtRegs(current()));
  return Math.floor(((rsp >>> 0) - SCRATCH_BELOW) / 16) * 16 + offset;
}

/** How a structure is turned into the other form, in kernel copies of both. */
interface Layout {
  readonly small: number;
  readonly large: number;
  readonly widen: (from: VirtAddr, to: VirtAddr) => void;
  readonly narrow: (from: VirtAddr, to: VirtAddr) => void;
}

function signed32(at: VirtAddr): number {
  return cpu.load(at, 4) | 0;
}

const TIMESPEC: Layout = {
  small: 8,
  large: 16,
  widen: (from, to) => {
    cpu.storeWord(to, signed32(from));
    cpu.storeWord(addVirt(to, 8), signed32(addVirt(from, 4)));
  },
  narrow: (from, to) => {
    cpu.store(to, 4, cpu.load(from, 4));
    cpu.store(addVirt(to, 4), 4, cpu.load(addVirt(from, 8), 4));
  },
};

/** Handler, flags, restorer, mask. */
const SIGACTION: Layout = {
  small: 20,
  large: 32,
  widen: (from, to) => {
    cpu.store64(to, cpu.load(from, 4), 0);
    cpu.store64(addVirt(to, 8), (cpu.load(addVirt(from, 4), 4) | SA_IA32_ABI) >>> 0, 0);
    cpu.store64(addVirt(to, 16), cpu.load(addVirt(from, 8), 4), 0);
    cpu.store64(addVirt(to, 24), cpu.load(addVirt(from, 12), 4), cpu.load(addVirt(from, 16), 4));
  },
  narrow: (from, to) => {
    cpu.store(to, 4, cpu.load(from, 4));
    cpu.store(addVirt(to, 4), 4, (cpu.load(addVirt(from, 8), 4) & ~SA_IA32_ABI) >>> 0);
    cpu.store(addVirt(to, 8), 4, cpu.load(addVirt(from, 16), 4));
    cpu.store(addVirt(to, 12), 4, cpu.load(addVirt(from, 24), 4));
    cpu.store(addVirt(to, 16), 4, cpu.load(addVirt(from, 28), 4));
  },
};

/** Address, flags, size. */
const STACK: Layout = {
  small: 12,
  large: 24,
  widen: (from, to) => {
    cpu.store64(to, cpu.load(from, 4), 0);
    cpu.store64(addVirt(to, 8), cpu.load(addVirt(from, 4), 4), 0);
    cpu.store64(addVirt(to, 16), cpu.load(addVirt(from, 8), 4), 0);
  },
  narrow: (from, to) => {
    cpu.store(to, 4, cpu.load(from, 4));
    cpu.store(addVirt(to, 4), 4, cpu.load(addVirt(from, 8), 4));
    cpu.store(addVirt(to, 8), 4, cpu.load(addVirt(from, 16), 4));
  },
};

const LAYOUTS = { timespec: TIMESPEC, sigaction: SIGACTION, stack: STACK } as const;
export type CompatStruct = keyof typeof LAYOUTS;

function widened(layout: Layout, from: number, to: number): number {
  return withUserBytes<number>(from, layout.small, (small) => giveUserBytes(to, layout.large, (large) => layout.widen(small, large)));
}

function narrowed(layout: Layout, from: number, to: number): number {
  return withUserBytes<number>(from, layout.large, (large) => giveUserBytes(to, layout.small, (small) => layout.narrow(large, small)));
}

/**
 * Calls `use` with the addresses of 64-bit structures: the first holds what is at `input`, the second's content goes to `output` when the
 * call gives `isDone` a result to pass it on. A zero address stays zero. @returns EFAULT; ENOMEM; what `use` returns.
 */
export function withCompatStruct(
  struct: CompatStruct,
  input: number,
  output: number,
  use: (input: number, output: number) => number,
  isDone: (result: number) => boolean = (result) => result >= 0,
): number | Errno {
  const layout = LAYOUTS[struct];
  const first = scratch(0);
  const second = scratch(SECOND);
  if (first < 0) return EFAULT;
  if (input !== 0) {
    const error = widened(layout, input, first);
    if (isErr(error)) return error;
  }
  const result = use(input === 0 ? 0 : first, output === 0 ? 0 : second);
  if (output === 0 || !isDone(result)) return result;
  const error = narrowed(layout, second, output);
  return isErr(error) ? error : result;
}
