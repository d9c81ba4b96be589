// The memory steps of the seam: accesses in supervisor mode with the current CR3. A fault is delivered and handled like any other, then
// the access is tried again.
import type { RmwOp, VirtAddr, Width } from "../hardware/index.ts";
import { CPU_ACCESS_HIGH } from "./core/layout.gen.ts";
import { RMW_ADD, RMW_AND, RMW_EXCHANGE, RMW_OR } from "./core-functions.ts";
import { InstructionCpu } from "./instruction-cpu.ts";

const PAGE_BYTES = 4096;
/** Cycles of REP STOSB and REP MOVSB: start, and per 32 bytes. */
const STRING_START_CYCLES = 30;
const STRING_BYTES_PER_CYCLE = 32;

const RMW_CODES: { readonly [op in RmwOp]: number } = { or: RMW_OR, and: RMW_AND, add: RMW_ADD, exchange: RMW_EXCHANGE };

export abstract class MemoryCpu extends InstructionCpu {
  protected rawLoad(va: VirtAddr, width: Width): number {
    for (;;) {
      this.beforeAccess();
      const value = width === 4 ? this.core.load32(va) : width === 1 ? this.core.load8(va) : this.core.load16(va);
      if (this.isAccessDone()) return value >>> 0;
    }
  }

  protected rawLoadWord(va: VirtAddr): number {
    for (;;) {
      this.beforeAccess();
      const value = this.core.loadNumber(va);
      if (this.isAccessDone()) return value;
    }
  }

  protected rawLoad64(va: VirtAddr): number {
    for (;;) {
      this.beforeAccess();
      const low = this.core.load64(va);
      if (this.isAccessDone()) {
        this.high = this.fields.low(CPU_ACCESS_HIGH);
        return low >>> 0;
      }
    }
  }

  protected rawStore(va: VirtAddr, width: Width, value: number): void {
    do {
      this.beforeAccess();
      if (width === 4) this.core.store32(va, value);
      else if (width === 1) this.core.store8(va, value);
      else this.core.store16(va, value);
    } while (!this.isAccessDone());
  }

  protected rawStoreWord(va: VirtAddr, value: number): void {
    do {
      this.beforeAccess();
      this.core.storeNumber(va, value);
    } while (!this.isAccessDone());
  }

  protected rawStore64(va: VirtAddr, low: number, high: number): void {
    do {
      this.beforeAccess();
      this.core.store64(va, low, high);
    } while (!this.isAccessDone());
  }

  protected rawRmw(op: RmwOp, va: VirtAddr, width: Width, operand: number): number {
    const code = RMW_CODES[op];
    for (;;) {
      this.beforeAccess();
      const { core } = this;
      const old = width === 4 ? core.rmw32(code, va, operand) : width === 1 ? core.rmw8(code, va, operand) : core.rmw16(code, va, operand);
      if (this.isAccessDone()) return old >>> 0;
    }
  }

  protected rawExchangeWord(va: VirtAddr, value: number): number {
    for (;;) {
      this.beforeAccess();
      const old = this.core.rmwNumber(RMW_EXCHANGE, va, value);
      if (this.isAccessDone()) return old;
    }
  }

  protected rawCompareExchange(va: VirtAddr, width: Width, expected: number, next: number): boolean {
    if (width === 4) {
      for (;;) {
        this.beforeAccess();
        const old = this.core.compareExchange32(va, expected, next) >>> 0;
        if (this.isAccessDone()) return old === expected >>> 0;
      }
    }
    // Narrow ones are rare: the host is alone, so a load and a store are one instruction.
    const old = this.rawLoad(va, width);
    if (old !== expected) return false;
    this.rawStore(va, width, next);
    return true;
  }

  protected rawCompareExchange64(va: VirtAddr, expectedLow: number, expectedHigh: number, low: number, high: number): boolean {
    for (;;) {
      this.beforeAccess();
      const old = this.core.compareExchange64(va, expectedLow, expectedHigh, low, high) >>> 0;
      if (this.isAccessDone()) return old === expectedLow >>> 0 && this.fields.low(CPU_ACCESS_HIGH) === expectedHigh >>> 0;
    }
  }

  protected rawFill(va: VirtAddr, value: number, bytes: number): void {
    this.now += STRING_START_CYCLES + Math.floor(bytes / STRING_BYTES_PER_CYCLE);
    for (let done = 0; done < bytes; ) {
      const at = (va + done) as VirtAddr;
      const part = Math.min(bytes - done, bytesToPageEnd(at));
      const pa = this.translateForWrite(at, part);
      this.memory.bytes.fill(value, pa, pa + part);
      this.board.physicalWritten(pa, part);
      done += part;
    }
  }

  protected rawCopy(to: VirtAddr, from: VirtAddr, bytes: number): void {
    this.now += STRING_START_CYCLES + Math.floor(bytes / STRING_BYTES_PER_CYCLE);
    for (let done = 0; done < bytes; ) {
      const target = (to + done) as VirtAddr;
      const source = (from + done) as VirtAddr;
      const part = Math.min(bytes - done, bytesToPageEnd(target), bytesToPageEnd(source));
      const sourcePa = this.translateForRead(source, part);
      const pa = this.translateForWrite(target, part);
      this.memory.bytes.copyWithin(pa, sourcePa, sourcePa + part);
      this.board.physicalWritten(pa, part);
      done += part;
    }
  }

  protected rawTouch(va: VirtAddr, bytes: number): void {
    this.touchLines(va, bytes);
  }
}

function bytesToPageEnd(va: number): number {
  return PAGE_BYTES - (((va % PAGE_BYTES) + PAGE_BYTES) % PAGE_BYTES);
}
