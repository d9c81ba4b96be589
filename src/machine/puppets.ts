// Puppets (law 4): at a puppet's trap the machine asks its function for the next action, loads registers as the program would, and
// goes on at the block of the text page that performs it. The function sees memory as a debugger does: no time, no cache.
import {
  assert,
  assertNever,
  type PhysicalMemory,
  PUPPET_INT80_OFFSET,
  PUPPET_LOAD_OFFSET,
  PUPPET_STAGING,
  PUPPET_STATE,
  PUPPET_STORE_OFFSET,
  PUPPET_SYSCALL_OFFSET,
  PUPPET_TOUCH_OFFSET,
  PUPPET_WRITE_OFFSET,
  type Puppet,
  type PuppetAction,
  physAddr,
} from "../hardware/index.ts";
import { peekTranslate } from "./peek-walk.ts";

const PAGE_BYTES = 4096;
/** Most bytes of one "write" action: the staging page. */
const STAGING_BYTES = 4096;

// Numbers of general registers, in encoding order.
const RAX = 0;
const RCX = 1;
const RDX = 2;
const RSI = 6;
const RDI = 7;
const RBX = 3;
const RBP = 5;
const R8 = 8;
const R9 = 9;
const R10 = 10;
const ARGUMENT_REGISTERS = [RDI, RSI, RDX, R10, R8, R9] as const;
const ARGUMENT_REGISTERS_32 = [RBX, RCX, RDX, RSI, RDI, RBP] as const;

/** The registers of the CPU that runs the puppet. */
export interface PuppetRegisters {
  readonly memory: PhysicalMemory;
  /** Root of the current page tables. */
  readonly root: number;
  getRegister(register: number): number;
  setRegister(register: number, value: number): void;
  /** Sets RIP to `offset` in the text page whose trap was executed. */
  goTo(offset: number): void;
}

/** Asks `puppet` for its next action and makes the CPU perform it. */
export function runPuppet(puppet: Puppet, name: string, cpu: PuppetRegisters): void {
  const state = bytesAt(cpu, PUPPET_STATE, PAGE_BYTES);
  assert(state !== undefined, () => `puppet ${name}: its state page is not mapped`);
  const action = puppet({
    result: cpu.getRegister(RAX),
    state: new DataView(state.buffer, state.byteOffset, state.byteLength),
    read: (address, length) => readUser(cpu, address, length),
  });
  perform(action, name, cpu);
}

function perform(action: PuppetAction, name: string, cpu: PuppetRegisters): void {
  switch (action.kind) {
    case "syscall": {
      const { entry } = action;
      assert(entry === undefined || entry === "int80", () => `puppet ${name}: ${entry ?? ""} needs 32-bit code`);
      cpu.setRegister(RAX, action.number);
      const registers = entry === "int80" ? ARGUMENT_REGISTERS_32 : ARGUMENT_REGISTERS;
      for (const [i, register] of registers.entries()) cpu.setRegister(register, action.args[i] ?? 0);
      cpu.goTo(entry === "int80" ? PUPPET_INT80_OFFSET : PUPPET_SYSCALL_OFFSET);
      return;
    }
    case "load":
      cpu.setRegister(RDI, action.address);
      cpu.goTo(PUPPET_LOAD_OFFSET);
      return;
    case "store":
      cpu.setRegister(RDI, action.address);
      cpu.setRegister(RSI, action.value);
      cpu.goTo(PUPPET_STORE_OFFSET);
      return;
    case "write": {
      assert(action.bytes.length <= STAGING_BYTES, () => `puppet ${name}: a write of ${action.bytes.length} bytes, at most 4096`);
      const staging = bytesAt(cpu, PUPPET_STAGING, PAGE_BYTES);
      assert(staging !== undefined, () => `puppet ${name}: its staging page is not mapped`);
      staging.set(action.bytes);
      cpu.setRegister(RDI, action.address);
      cpu.setRegister(RSI, PUPPET_STAGING);
      cpu.setRegister(RCX, action.bytes.length);
      cpu.goTo(PUPPET_WRITE_OFFSET);
      return;
    }
    case "touch":
      assert(action.count > 0, () => `puppet ${name}: touches ${action.count} lines`);
      cpu.setRegister(RDI, action.address);
      cpu.setRegister(RCX, action.count);
      cpu.goTo(PUPPET_TOUCH_OFFSET);
      return;
    default:
      assertNever(action);
  }
}

/** `length` bytes within one page, as a window of memory. */
function bytesAt(cpu: PuppetRegisters, address: number, length: number): Uint8Array | undefined {
  const pa = peekTranslate(cpu.memory, cpu.root, address);
  return pa === undefined || !cpu.memory.has(pa, length) ? undefined : cpu.memory.slice(physAddr(pa), length);
}

function readUser(cpu: PuppetRegisters, address: number, length: number): Uint8Array | undefined {
  const out = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const at = address + done;
    const part = Math.min(length - done, PAGE_BYTES - (at % PAGE_BYTES));
    const bytes = bytesAt(cpu, at, part);
    if (bytes === undefined) return undefined;
    out.set(bytes, done);
    done += part;
  }
  return out;
}
