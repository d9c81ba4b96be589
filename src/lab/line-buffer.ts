// Collects console bytes, so that a terminal gets lines and not single bytes.

/** A line that grows beyond this is written in pieces. */
const LONGEST = 4096;
const NEWLINE = 0x0a;

export class LineBuffer {
  private readonly write: (bytes: Uint8Array) => void;
  private bytes: number[] = [];

  constructor(write: (bytes: Uint8Array) => void) {
    this.write = write;
  }

  add(byte: number): void {
    this.bytes.push(byte);
    if (byte === NEWLINE || this.bytes.length >= LONGEST) this.flush();
  }

  /** What is there, a line or not. */
  flush(): void {
    if (this.bytes.length === 0) return;
    this.write(Uint8Array.from(this.bytes));
    this.bytes = [];
  }
}
