// I/O ports of the simulated board: a debug console, a serial port's transmitter, and the exit port that ends a simulation. Reads
// of other ports give all ones, writes to them vanish, as on a board without that device.

/** Debug console (as in Bochs and QEMU): bytes written here are printed; reads give 0xe9. */
export const PORT_DEBUG_CONSOLE = 0xe9;
/** Debug exit: a byte written here ends the simulation with that status. */
export const PORT_DEBUG_EXIT = 0xf4;
export const PORT_COM1_DATA = 0x3f8;
export const PORT_COM1_LINE_STATUS = 0x3fd;
/** ACPI power management 1a control block: SLP_TYP in bits 12:10, SLP_EN bit 13. ACPI 6.4, 4.8.3.2.1. */
export const PORT_PM1A_CONTROL = 0x604;
export const PM1_SLEEP_ENABLE = 1 << 13;
const PM1_SLEEP_TYPE_SHIFT = 10;
/** This board's values of SLP_TYP. */
export const SLEEP_TYPE_S5 = 0;
export const SLEEP_TYPE_S3 = 1;
/** Reset control register (as in Intel's chipsets): bit 2 resets. Nothing is started again here: the simulation ends. */
export const PORT_RESET_CONTROL = 0xcf9;
const RESET_CPU = 1 << 2;
/** Transmitter empty, holding register empty. */
const LINE_STATUS_READY = 0x60;

export interface IoHost {
  /** A byte of console output, and the port that it was written to. */
  console(byte: number, port: number): void;
  /** The simulation ends. */
  exit(status: number): void;
  /** Suspend to RAM, and awake again: the CPU that wrote the port stands at the waking vector. */
  suspendToRam(): void;
}

export class IoBus {
  private readonly host: IoHost;

  constructor(host: IoHost) {
    this.host = host;
  }

  read(port: number, width: number): number {
    if (port === PORT_DEBUG_CONSOLE) return PORT_DEBUG_CONSOLE;
    if (port === PORT_COM1_LINE_STATUS) return LINE_STATUS_READY;
    return width === 1 ? 0xff : width === 2 ? 0xffff : 0xffffffff;
  }

  write(port: number, value: number): void {
    if (port === PORT_DEBUG_CONSOLE || port === PORT_COM1_DATA) this.host.console(value & 0xff, port);
    else if (port === PORT_DEBUG_EXIT) this.host.exit(value & 0xff);
    else if (port === PORT_RESET_CONTROL) {
      if ((value & RESET_CPU) !== 0) this.host.exit(0);
    } else if (port === PORT_PM1A_CONTROL && (value & PM1_SLEEP_ENABLE) !== 0) this.goToSleep((value >> PM1_SLEEP_TYPE_SHIFT) & 7);
  }

  private goToSleep(type: number): void {
    if (type === SLEEP_TYPE_S5) this.host.exit(0);
    else if (type === SLEEP_TYPE_S3) this.host.suspendToRam();
  }
}
