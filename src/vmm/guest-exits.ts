// What the monitor does about an exit of the guest: its devices are a serial port that is always ready, a debug console, an exit port,
// and a port that gives the CPU to others.
import { KVM_EXIT, KVM_EXIT_IO_OUT, KVM_INTERNAL_ERROR_EMULATION, KVM_RUN_OFFSET } from "../abi/index.ts";
import { EXIT_REASON, hex, type PuppetView } from "../hardware/index.ts";
import type { VmmEnding } from "./vmm.ts";

/** Data and line status of the serial port; the status says that it is ready to send. */
const COM1_DATA = 0x3f8;
const COM1_LINE_STATUS = 0x3fd;
const LINE_STATUS_READY = 0x60;
/** A byte written here is printed (QEMU: isa-debugcon). */
const DEBUG_CONSOLE = 0xe9;
/** A byte written here ends the run with that status. */
const EXIT_PORT = 0xf4;
/** A byte written here lets other processes run. On a PC it is the POST code port, which delays. */
const YIELD_PORT = 0x80;
/** What a port without a device reads as. */
const OPEN_BUS = 0xffffffff;

export type ExitAction =
  | { readonly kind: "enter" }
  | { readonly kind: "console"; readonly byte: number }
  | { readonly kind: "input"; readonly address: number; readonly value: number }
  | { readonly kind: "yield" }
  | { readonly kind: "end"; readonly ending: VmmEnding };

/** Bytes of struct kvm_run that are looked at. */
const RUN_BYTES = 64;

function error(reason: string): ExitAction {
  return { kind: "end", ending: { kind: "error", status: 0, reason } };
}

function ended(kind: "halt" | "exit" | "triple fault", status: number): ExitAction {
  return { kind: "end", ending: { kind, status, reason: "" } };
}

function word(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

/** Decides about the exit that struct kvm_run at user address `run` tells of. */
export function handleGuestExit(puppet: PuppetView, run: number): ExitAction {
  const bytes = puppet.read(run, RUN_BYTES);
  if (bytes === undefined) return error("struct kvm_run is not mapped");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reason = view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
  switch (reason) {
    case KVM_EXIT.IO:
      return portAccess(puppet, view, run);
    case KVM_EXIT.HLT:
      if (view.getUint8(KVM_RUN_OFFSET.if_flag) === 0) return ended("halt", 0);
      return error("the guest waits for an interrupt (HLT with interrupts on), and there is no device that sends one");
    case KVM_EXIT.SHUTDOWN:
      return ended("triple fault", 0);
    case KVM_EXIT.INTR:
      return { kind: "enter" };
    case KVM_EXIT.FAIL_ENTRY:
      return error(`VM entry failed: ${hex(word(view, KVM_RUN_OFFSET.hardware_entry_failure_reason))}`);
    case KVM_EXIT.INTERNAL_ERROR:
      return error(internalError(view));
    default:
      return error(`unexpected KVM exit ${reason}`);
  }
}

function internalError(view: DataView): string {
  const suberror = view.getUint32(KVM_RUN_OFFSET.internal_suberror, true);
  const data = (i: number): number => word(view, KVM_RUN_OFFSET.internal_data + 8 * i);
  if (suberror === KVM_INTERNAL_ERROR_EMULATION) {
    if (data(0) === EXIT_REASON.EPT_VIOLATION)
      return `the guest accessed guest-physical ${hex(data(2))}, where there is neither memory nor a device`;
    if (data(0) === EXIT_REASON.IO_INSTRUCTION) return `the guest used a string instruction on port ${hex(Math.floor(data(1) / 2 ** 16))}`;
  }
  return `KVM internal error ${suberror}: ${hex(data(0))}, ${hex(data(1))}`;
}

function portAccess(puppet: PuppetView, view: DataView, run: number): ExitAction {
  const port = view.getUint16(KVM_RUN_OFFSET.io_port, true);
  const address = run + word(view, KVM_RUN_OFFSET.io_data_offset);
  if (view.getUint8(KVM_RUN_OFFSET.io_direction) !== KVM_EXIT_IO_OUT)
    return { kind: "input", address, value: port === COM1_LINE_STATUS ? LINE_STATUS_READY : OPEN_BUS };
  const byte = puppet.read(address, 1)?.[0];
  if (byte === undefined) return error("the page of port data is not mapped");
  switch (port) {
    case COM1_DATA:
    case DEBUG_CONSOLE:
      return { kind: "console", byte };
    case EXIT_PORT:
      return ended("exit", byte);
    case YIELD_PORT:
      return { kind: "yield" };
    default:
      // The other registers of the serial port, and ports without a device.
      return { kind: "enter" };
  }
}
