// The part of the WebAssembly interface that loading the core needs. The project compiles without the DOM library, which is where
// TypeScript keeps these declarations.
declare namespace WebAssembly {
  class Memory {
    constructor(descriptor: { initial: number; maximum?: number });
    readonly buffer: ArrayBuffer;
  }
  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): { readonly module: string; readonly name: string; readonly kind: string }[];
  }
  class Instance {
    constructor(module: Module, imports: Record<string, Record<string, ImportValue>>);
    readonly exports: Exports;
  }
  type ImportValue = Memory | ((...values: number[]) => number | undefined);
  type Exports = Record<string, unknown>;
}
