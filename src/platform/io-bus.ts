// I/O ports of the simulated board: a debug console, a serial port's transmitter, and the exit port that ends a simulation. Reads
// of other ports give all ones, writes to them vanish, as on a board without that device.

/** Debug console (as in Bochs and QEMU): bytes written here are printed; reads give 0xe9. */
export const PORT_DEBUG_CONSOLE = 0xe9;
/** Debug exit: a byte written here ends the simulation with that status. */
export const PORT_DEBUG_EXIT = 0xf4;
export const PORT_COM1_DATA = 0x3f8;
export const PORT_COM1_LINE_STATUS = 0x3fd;
/** Transmitter empty, holding register empty. */
const LINE_STATUS_READY = 0x60;

export interface IoHost {
  /** A byte of console output, and the port that it was written to. */
  console(byte: number, port: number): void;
  /** The simulation ends. */
  exit(status: number): void;
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
  }
}
