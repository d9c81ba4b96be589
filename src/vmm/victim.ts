// A process with a secret in its memory, as any has: it writes it to a page of its own, and from then on uses it now and again, so that
// it is in the caches of the CPU it runs on. Between uses it sleeps or gives the CPU away.
//
// Arguments: u32 bytes of the secret | u32 nanoseconds to sleep between uses (0: sched_yield) | the secret.
import { isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, SYS } from "../abi/index.ts";
import {
  CACHE_LINE_BYTES,
  PAGE_SIZE,
  PUPPET_ARGUMENTS,
  PUPPET_STATE,
  type Puppet,
  type PuppetAction,
  type PuppetView,
} from "../hardware/index.ts";

/** Name of the puppet in a kernel configuration. */
export const VICTIM_PUPPET = "victim";
const SECRET_PAGE = 0x20000000;
/** User address of the secret: somewhere in its page, as heap data is. Line 0 of a page shares its L1D set with every page table. */
export const VICTIM_SECRET = SECRET_PAGE + 0x9c0;
const SECRET_MAX = SECRET_PAGE + PAGE_SIZE - VICTIM_SECRET;

const ARGUMENTS = PUPPET_ARGUMENTS + 4;
const HEADER_BYTES = 8;
const PHASE_OFFSET = 0;
const TIMESPEC_OFFSET = 0x40;
const NANOSECONDS = 1_000_000_000;
const FAILED_STATUS = 1;

const PHASE_START = 0;
const PHASE_MAPPED = 1;
const PHASE_USE = 2;
const PHASE_REST = 3;

/** The arguments of a victim; the secret is at most SECRET_MAX bytes. */
export function encodeVictimArguments(secret: Uint8Array, sleepNanoseconds: number): Uint8Array {
  if (secret.length > SECRET_MAX) throw new RangeError(`a victim's secret is at most ${SECRET_MAX} bytes, not ${secret.length}`);
  const out = new Uint8Array(HEADER_BYTES + secret.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, secret.length, true);
  view.setUint32(4, sleepNanoseconds, true);
  out.set(secret, HEADER_BYTES);
  return out;
}

function header(puppet: PuppetView): DataView {
  const bytes = puppet.read(ARGUMENTS, HEADER_BYTES);
  if (bytes === undefined) throw new RangeError("a victim was started without arguments");
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function syscall(number: number, ...args: readonly number[]): PuppetAction {
  return { kind: "syscall", number, args };
}

function rest(puppet: PuppetView, nanoseconds: number): PuppetAction {
  if (nanoseconds === 0) return syscall(SYS.sched_yield);
  puppet.state.setUint32(TIMESPEC_OFFSET, Math.floor(nanoseconds / NANOSECONDS), true);
  puppet.state.setUint32(TIMESPEC_OFFSET + 8, nanoseconds % NANOSECONDS, true);
  return syscall(SYS.nanosleep, PUPPET_STATE + TIMESPEC_OFFSET, 0);
}

export const victim: Puppet = (puppet) => {
  const { state } = puppet;
  const phase = state.getUint32(PHASE_OFFSET, true);
  const setPhase = (next: number): void => state.setUint32(PHASE_OFFSET, next, true);
  const arguments_ = header(puppet);
  const bytes = arguments_.getUint32(0, true);
  switch (phase) {
    case PHASE_START:
      setPhase(PHASE_MAPPED);
      return syscall(SYS.mmap, SECRET_PAGE, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    case PHASE_MAPPED: {
      if (isErr(puppet.result)) return syscall(SYS.exit_group, FAILED_STATUS);
      setPhase(PHASE_USE);
      const secret = puppet.read(ARGUMENTS + HEADER_BYTES, bytes) ?? new Uint8Array(0);
      return { kind: "write", address: VICTIM_SECRET, bytes: secret };
    }
    case PHASE_USE:
      setPhase(PHASE_REST);
      return { kind: "touch", address: VICTIM_SECRET, count: Math.max(1, Math.ceil(bytes / CACHE_LINE_BYTES)) };
    case PHASE_REST:
      setPhase(PHASE_USE);
      return rest(puppet, arguments_.getUint32(4, true));
    default:
      return syscall(SYS.exit_group, FAILED_STATUS);
  }
};
