// The core as the host holds it: one linear memory with all state, the WebAssembly modules of both gears over it, and the translator
// they call. The state is in the memory alone, so the gear can change between any two runs, and a copy of the memory is a snapshot.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { assert } from "../hardware/index.ts";
import {
  CPU_BYTES,
  CPU_CPU_ID,
  CPU_CR0,
  CPU_CYCLES_PER_INSTRUCTION,
  CPU_REGION,
  CPU_REGION_BYTES,
  CPU_RFLAGS,
  MAX_CPUS,
  MAX_FRAMES,
  MAX_TLB_ENTRIES,
  PHYSICAL_REGION,
  SAVED_CPUS_REGION,
  SHARED_CPUS,
  SHARED_PHYSICAL_BYTES,
  SHARED_PHYSICAL_MASK_BITS,
  SHARED_SOFT_FILLS,
  SHARED_TLB_FILLS,
  SHARED_TLB_SETS,
  SHARED_TLB_WAYS,
} from "./core/layout.gen.ts";
import { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";
import { mnemonicName } from "./isa/handlers.ts";
import { Translator } from "./isa/translate.ts";

export type CoreGear = "architectural" | "detailed";

export interface CoreOptions {
  /** Simulated physical memory; a multiple of 4096, at most 3 GiB less the core's own regions. */
  readonly physicalBytes: number;
  readonly cpus: number;
  readonly gear: CoreGear;
  /** Geometry of the modelled TLB. Sets: a power of two. */
  readonly tlb?: { readonly sets: number; readonly ways: number };
  /** MAXPHYADDR of the model. */
  readonly physicalBits?: number;
}

/** Second-level TLB of Skylake: 1536 entries, 12 ways (Intel optimization manual, "Skylake Server TLBs"). */
const DEFAULT_TLB = { sets: 128, ways: 12 } as const;
const DEFAULT_PHYSICAL_BITS = 46;
/** Cycles that the architectural gear charges for an instruction: a round figure, no model. */
const CYCLES_PER_INSTRUCTION = 1;
const WASM_PAGE = 65536;
const LARGEST_MEMORY_PAGES = 65536;
const PAGE_BYTES = 4096;
/** ET and NE read as ones. */
const CR0_AT_RESET = 0x30;
const RFLAGS_AT_RESET = 2;

/** What a module of the core exports besides the functions of every gear. */
export type CoreExports = CoreFunctions & { nextPagePhysical(): number };

export class Core {
  private readonly memory: WebAssembly.Memory;
  /** The whole linear memory. */
  readonly view: DataView;
  /** Simulated physical memory. Whoever writes here directly tells physicalWritten(). */
  readonly physical: Uint8Array;
  /** Fields of the active CPU block. */
  readonly fields: CoreFields;
  readonly cpus: number;
  private readonly instances = new Map<CoreGear, CoreExports>();
  private readonly translator: Translator;
  private readonly lacking = new Map<number, number>();
  private active: CoreExports;
  private activeGear: CoreGear;

  /** A core at reset: all CPU blocks zero but for CR0 and RFLAGS, all caches empty. */
  constructor(options: CoreOptions) {
    const { physicalBytes, cpus } = options;
    assert(physicalBytes % PAGE_BYTES === 0 && physicalBytes > 0, () => `memory size is not a multiple of a page: ${physicalBytes}`);
    assert(physicalBytes / PAGE_BYTES <= MAX_FRAMES, () => `more memory than a core can hold: ${physicalBytes}`);
    assert(cpus >= 1 && cpus <= MAX_CPUS, () => `a core has 1 to ${MAX_CPUS} logical CPUs, not ${cpus}`);
    const pages = Math.ceil((PHYSICAL_REGION + physicalBytes) / WASM_PAGE);
    assert(pages <= LARGEST_MEMORY_PAGES, () => `more memory than a core can hold: ${physicalBytes}`);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: LARGEST_MEMORY_PAGES });
    const { buffer } = this.memory;
    this.view = new DataView(buffer);
    this.physical = new Uint8Array(buffer, PHYSICAL_REGION, physicalBytes);
    this.fields = new CoreFields(this.view);
    this.cpus = cpus;
    this.translator = new Translator({
      view: this.view,
      bytes: new Uint8Array(buffer),
      physical: PHYSICAL_REGION,
      nextPage: () => this.active.nextPagePhysical(),
    });
    this.writeResetState(options);
    this.activeGear = options.gear;
    this.active = this.instance(options.gear);
    this.active.resetCaches();
  }

  /** The functions of the current gear. */
  get functions(): CoreExports {
    return this.active;
  }

  get gear(): CoreGear {
    return this.activeGear;
  }

  /** From the next run on, in this gear. */
  setGear(gear: CoreGear): void {
    this.activeGear = gear;
    this.active = this.instance(gear);
  }

  /** Address of the block of a logical CPU, wherever it is at the moment. */
  blockOf(cpu: number): number {
    return this.fields.low(CPU_CPU_ID) === cpu ? CPU_REGION : SAVED_CPUS_REGION + cpu * CPU_REGION_BYTES;
  }

  /** Instructions that were met and are not implemented: name and count. Each raised #UD in the simulated program. */
  get unimplemented(): ReadonlyMap<string, number> {
    return new Map([...this.lacking].map(([mnemonic, count]) => [mnemonicName(mnemonic), count]));
  }

  /** What the core counts: translated blocks, fills of the modelled and of the soft TLB. */
  counters(): { readonly blocks: number; readonly tlbFills: number; readonly softFills: number } {
    return {
      blocks: this.translator.blocks,
      tlbFills: this.fields.word(SHARED_TLB_FILLS),
      softFills: this.fields.word(SHARED_SOFT_FILLS),
    };
  }

  private writeResetState(options: CoreOptions): void {
    const tlb = options.tlb ?? DEFAULT_TLB;
    assert(
      tlb.sets * tlb.ways <= MAX_TLB_ENTRIES && Number.isInteger(Math.log2(tlb.sets)),
      () => `TLB geometry: ${tlb.sets} sets, ${tlb.ways} ways`,
    );
    assert(CPU_BYTES <= CPU_REGION_BYTES, () => "the CPU block outgrew its region");
    const { fields } = this;
    fields.setWord(SHARED_PHYSICAL_BYTES, options.physicalBytes);
    fields.setLow(SHARED_TLB_SETS, tlb.sets);
    fields.setLow(SHARED_TLB_WAYS, tlb.ways);
    fields.setLow(SHARED_PHYSICAL_MASK_BITS, options.physicalBits ?? DEFAULT_PHYSICAL_BITS);
    fields.setLow(SHARED_CPUS, this.cpus);
    for (let cpu = 0; cpu < this.cpus; cpu++) {
      const to = (cpu === 0 ? CPU_REGION : SAVED_CPUS_REGION + cpu * CPU_REGION_BYTES) - CPU_REGION;
      fields.setLow(to + CPU_CPU_ID, cpu);
      fields.setLow(to + CPU_CR0, CR0_AT_RESET);
      fields.setLow(to + CPU_RFLAGS, RFLAGS_AT_RESET);
      fields.setLow(to + CPU_CYCLES_PER_INSTRUCTION, CYCLES_PER_INSTRUCTION);
    }
  }

  private instance(gear: CoreGear): CoreExports {
    const known = this.instances.get(gear);
    if (known !== undefined) return known;
    const module = moduleOf(gear);
    // asc names an import after the file that declares it: whatever that is, the function is known by its own name.
    const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
    for (const wanted of WebAssembly.Module.imports(module)) {
      const group = imports[wanted.module] ?? {};
      imports[wanted.module] = group;
      group[wanted.name] = this.importNamed(wanted.name);
    }
    const made = coreExports(new WebAssembly.Instance(module, imports).exports);
    this.instances.set(gear, made);
    return made;
  }

  private importNamed(name: string): WebAssembly.ImportValue {
    switch (name) {
      case "memory":
        return this.memory;
      case "translateBlock":
        return (page: number, offset: number, mode: number) => this.translator.translate(page, offset, mode);
      case "noteUnimplemented":
        return (mnemonic: number) => {
          this.note(mnemonic);
          return undefined;
        };
      default:
        throw new Error(`the core imports an unknown function: ${name}`);
    }
  }

  /** `mnemonic` 0: an instruction that is undefined by design, such as UD2. */
  private note(mnemonic: number): void {
    if (mnemonic !== 0) this.lacking.set(mnemonic, (this.lacking.get(mnemonic) ?? 0) + 1);
  }
}

const modules = new Map<CoreGear, WebAssembly.Module>();

/** Compiled once per process. The file lies beside the package's own code: dist/core. */
function moduleOf(gear: CoreGear): WebAssembly.Module {
  const known = modules.get(gear);
  if (known !== undefined) return known;
  const path = fileURLToPath(new URL(`../../core/core-${gear}.wasm`, import.meta.url));
  const module = new WebAssembly.Module(readFileSync(path));
  modules.set(gear, module);
  return module;
}

/** The exports as what they are; the build makes sure that every gear exports all of them. */
function coreExports(found: WebAssembly.Exports): CoreExports {
  for (const name of ["run", "deliver", "selectCpu", "resetCaches", "nextPagePhysical"]) {
    assert(typeof found[name] === "function", () => `the core does not export ${name}`);
  }
  return found as unknown as CoreExports;
}
