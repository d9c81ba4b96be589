// Linear memory of one CPU: the page walk with all permission bits and A/D bits, behind a TLB that may hold stale translations.
// Faults are returned, not delivered: the CPU decides what they become.
import {
  CR0_WP,
  CR4_SMAP,
  CR4_SMEP,
  cr3Root,
  EFER_NXE,
  entryFrame,
  largeEntryFrame,
  levelSize,
  PF_INSTR,
  PF_PROT,
  PF_USER,
  PF_WRITE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_GLOBAL,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  RFLAGS_AC,
  tableIndex,
  VECTOR_GP,
  VECTOR_PF,
} from "../hardware/index.ts";
import type { CoreState } from "./core-state.ts";
import type { Labels } from "./labels.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import { type Translation, Translations } from "./translations.ts";

export const READ = 0;
export const WRITE = 1;
export const FETCH = 2;
export type Access = typeof READ | typeof WRITE | typeof FETCH;

/** What translate() returns when the access faults. */
export const FAULT = -1;

const PAGE_MASK = 0xfff;
const NX_FEATURE = EFER_NXE;
const PAGE = 4096;

function physicalIn(translation: Translation, va: number): number {
  if (translation.level === 1) return translation.frame + (va & PAGE_MASK);
  const size = levelSize(translation.level);
  return translation.frame + (va - Math.floor(va / size) * size);
}

export class Mmu {
  readonly tlb: Translations;
  /** Of the last fault: vector (#PF or #GP) and error code. */
  faultVector = VECTOR_PF;
  faultError = 0;
  /** Told of each use of a cached translation; for the property on stale ones. */
  onHit: ((translation: Translation, va: number, pa: number, access: Access) => void) | undefined;
  /** Told of each entry of page tables that a walk reads. */
  onWalk: ((entry: number) => void) | undefined;
  private readonly memory: TrackedMemory;
  private readonly state: CoreState;
  private readonly labels: Labels;

  constructor(memory: TrackedMemory, state: CoreState, labels: Labels, cpu: number) {
    this.tlb = new Translations(memory, cpu);
    this.memory = memory;
    this.state = state;
    this.labels = labels;
  }

  /** Physical address of `va` for an access of the given kind, or FAULT with faultVector and faultError set. Marks whose data is touched. */
  translate(va: number, access: Access, isUser: boolean): number {
    if (va < -(2 ** 47) || va >= 2 ** 47) {
      this.faultVector = VECTOR_GP;
      this.faultError = 0;
      return FAULT;
    }
    const { pcid } = this.state;
    let translation = this.tlb.find(va, pcid);
    if (translation !== undefined && this.allows(translation, access, isUser)) {
      const pa = physicalIn(translation, va);
      if (this.onHit !== undefined) this.onHit(translation, va, pa, access);
      this.labels.touched(this.memory.frameOwner(Math.floor(pa / PAGE)));
      return pa;
    } else {
      // A cached translation that refuses is looked up again, as the processor does before it faults.
      const walked = this.walk(va, access, isUser);
      if (walked === undefined) {
        this.tlb.invalidate(va, pcid, true);
        return FAULT;
      }
      translation = walked;
      this.tlb.insert(va, pcid, translation);
    }
    const pa = physicalIn(translation, va);
    this.labels.touched(this.memory.frameOwner(Math.floor(pa / PAGE)));
    return pa;
  }

  /** Where an access that was just made went, without any effect: the cached translation, else what the tables say. */
  lookUp(va: number): number | undefined {
    const cached = this.tlb.find(va, this.state.pcid);
    return cached === undefined ? this.peek(va, cr3Root(this.state.cr3)) : physicalIn(cached, va);
  }

  /** CR3 write: with NOFLUSH the entries of the PCID stay. */
  loadRoot(noflush: boolean): void {
    if (!noflush) this.tlb.invalidatePcid(this.state.pcid);
  }

  invlpg(va: number): void {
    this.tlb.invalidate(va, this.state.pcid, true);
  }

  /** Translates without any effect, with full rights: for observers and devices. */
  peek(va: number, root: PhysAddr): PhysAddr | undefined {
    let table: number = root;
    for (const level of [4, 3, 2, 1] as const) {
      const at = table + tableIndex(va, level) * 8;
      if (!this.memory.has(at, 8)) return undefined;
      const low = this.memory.read32(at as PhysAddr);
      const high = this.memory.read32((at + 4) as PhysAddr);
      if ((low & PTE_PRESENT) === 0) return undefined;
      if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) {
        const size = levelSize(level);
        const frame = level === 1 ? entryFrame(low, high) : largeEntryFrame(low, high, level);
        return (frame + (va - Math.floor(va / size) * size)) as PhysAddr;
      }
      table = entryFrame(low, high);
    }
    return undefined;
  }

  private allows(t: Translation, access: Access, isUser: boolean): boolean {
    if (access === WRITE && !t.isDirty) return false;
    // Nearly all that kernel code does.
    if (!isUser && !t.isUser && (access === READ || (access === WRITE && t.isWritable))) return true;
    return this.refusal(t.isWritable, t.isUser, t.isExecutable, access, isUser) === 0;
  }

  /** 0, or PF_PROT: the rights of SDM vol. 3, 5.6. */
  private refusal(isWritable: boolean, isUserPage: boolean, isExecutable: boolean, access: Access, isUser: boolean): number {
    const { cr0, cr4, rflags } = this.state;
    if (isUser) {
      if (!isUserPage) return PF_PROT;
      if (access === WRITE && !isWritable) return PF_PROT;
    } else {
      if (isUserPage && access === FETCH && (cr4 & CR4_SMEP) !== 0) return PF_PROT;
      if (isUserPage && access !== FETCH && (cr4 & CR4_SMAP) !== 0 && (rflags & RFLAGS_AC) === 0) return PF_PROT;
      if (access === WRITE && !isWritable && (cr0 & CR0_WP) !== 0) return PF_PROT;
    }
    return access === FETCH && !isExecutable ? PF_PROT : 0;
  }

  private walk(va: number, access: Access, isUser: boolean): Translation | undefined {
    const { memory, state } = this;
    const error = (access === WRITE ? PF_WRITE : 0) | (isUser ? PF_USER : 0) | (access === FETCH ? PF_INSTR : 0);
    this.faultVector = VECTOR_PF;
    let table: number = cr3Root(state.cr3);
    let isWritable = true;
    let isUserPage = true;
    let isExecutable = true;
    for (const level of [4, 3, 2, 1] as const) {
      const at = (table + tableIndex(va, level) * 8) as PhysAddr;
      if (!memory.has(at, 8)) {
        this.faultError = error;
        return undefined;
      }
      const low = memory.read32(at);
      const high = memory.read32((at + 4) as PhysAddr);
      this.onWalk?.(at);
      this.labels.touched(memory.frameOwner(Math.floor(at / PAGE)));
      if ((low & PTE_PRESENT) === 0) {
        this.faultError = error;
        return undefined;
      }
      isWritable &&= (low & PTE_WRITE) !== 0;
      isUserPage &&= (low & PTE_USER) !== 0;
      isExecutable &&= (state.efer & NX_FEATURE) === 0 || (high & PTE_NX_HIGH) === 0;
      if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) {
        const refused = this.refusal(isWritable, isUserPage, isExecutable, access, isUser);
        if (refused !== 0) {
          this.faultError = error | refused;
          return undefined;
        }
        const wanted = low | PTE_ACCESSED | (access === WRITE ? PTE_DIRTY : 0);
        if (wanted !== low) memory.write32(at, wanted >>> 0);
        return {
          frame: level === 1 ? entryFrame(low, high) : largeEntryFrame(low, high, level),
          level,
          isWritable,
          isUser: isUserPage,
          isExecutable,
          isGlobal: (low & PTE_GLOBAL) !== 0,
          isDirty: (wanted & PTE_DIRTY) !== 0,
          leaf: at,
          low: wanted,
          madeAt: memory.changes,
          past: 0,
        };
      }
      if ((low & PTE_ACCESSED) === 0) memory.write32(at, (low | PTE_ACCESSED) >>> 0);
      table = entryFrame(low, high);
    }
    return undefined;
  }
}
