// The functions of the core that the host side of the machine calls: exports of the WebAssembly module (src/machine/core/control.ts,
// host-access.ts, run.ts). Addresses travel as numbers. An access that fails sets CPU_ACCESS_STATUS and returns 0.

export interface CoreFunctions {
  run(budget: number): number;
  deliver(vector: number, type: number, error: number, length: number): number;
  selectCpu(number: number): void;
  resetCaches(): void;
  contextChanged(): void;
  modeChanged(): void;
  registerTrap(pa: number): number;
  physicalWritten(pa: number, bytes: number): void;
  hostTranslate(va: number, access: number, mode: number): number;
  hostWriteCr3(value: number, noflush: number): number;
  hostInvlpg(va: number): void;
  hostInvpcid(type: number, pcid: number, va: number): number;
  hostInvvpid(type: number, vpid: number, va: number): number;
  hostInvept(type: number, eptp: number): number;
  flushAllTlb(): void;
  load8(va: number): number;
  load16(va: number): number;
  load32(va: number): number;
  load64(va: number): number;
  loadNumber(va: number): number;
  store8(va: number, value: number): void;
  store16(va: number, value: number): void;
  store32(va: number, value: number): void;
  store64(va: number, low: number, high: number): void;
  storeNumber(va: number, value: number): void;
  rmw8(op: number, va: number, operand: number): number;
  rmw16(op: number, va: number, operand: number): number;
  rmw32(op: number, va: number, operand: number): number;
  rmwNumber(op: number, va: number, operand: number): number;
  compareExchange32(va: number, expected: number, replacement: number): number;
  compareExchange64(va: number, expectedLow: number, expectedHigh: number, low: number, high: number): number;
}

// Operations of rmw8 and its kin.
export const RMW_ADD = 0;
export const RMW_OR = 1;
export const RMW_AND = 2;
export const RMW_EXCHANGE = 3;
