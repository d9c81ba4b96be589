// Numbers of which the kernel only asks whether they are the same, or one more: generations of TLB flushes, and the identifiers that it counts up
// so that they are never used twice. Between events, while no path of the kernel is under way, they are made what they would be if
// nothing had ever been flushed or ended: states that no code can tell apart become equal, and the state space closes.
//
// Why that changes nothing that the kernel does: `tlb_gen` of a slot is compared with the mm's for equality, and by flush_tlb_func() with
// that of a request, of which there is none between events; a slot that is behind is behind, by one or by more. A context, domain, mm or
// pid that is no more is compared with those that are, and is none of them; its slots are emptied. A number is given again only when
// nothing in memory or in a label has it.
import { OWNER_NONE, type Owner, ownerNumber, PAGE_SIZE, type PhysAddr, type Ptr } from "../../hardware/index.ts";
import {
  FlushTlbInfo,
  flushTlbInfo,
  Kvm,
  KvmGlobals,
  kvmGlobals,
  lastUserMmSpec,
  lastVm,
  Mm,
  MmContext,
  staticObjects,
  TaskStruct,
  TLB_NR_DYN_ASIDS,
  TlbContext,
  tlbContexts,
} from "../../kernel/index.ts";
import type { ResidueMachine } from "../../residue/index.ts";
import type { GroundTruth, KernelView } from "../properties/index.ts";

const INIT_MM_CTX_ID = 1;
/** Generation of what is up to date; one less is what is behind. */
const UP_TO_DATE = 2;
const SPEC_BITS = 4;
const STRUCTURES = ["L1D", "fill buffers", "branch target buffer", "return stack"] as const;

function staticAddress(name: string): number {
  return staticObjects().find((object) => object.name === name)?.address ?? 0;
}

export class CanonicalNumbers {
  private readonly machine: ResidueMachine;
  private readonly view: KernelView;
  private readonly truth: GroundTruth;
  private readonly lastCtxId = staticAddress("last_mm_ctx_id");
  private readonly lastMmNumber = staticAddress("last_mm_number");
  private readonly lastPid = staticAddress("last_pid");
  private readonly lastDomain = staticAddress("asi_last_domain_id");
  private readonly pokingMm = staticAddress("poking_mm");
  private readonly firstTask = staticAddress("init_task");
  private readonly mms: Ptr<"mm_struct">[] = [];

  constructor(machine: ResidueMachine, view: KernelView, truth: GroundTruth) {
    this.machine = machine;
    this.view = view;
    this.truth = truth;
  }

  /** Makes them so. Between events, while the kernel's path of no CPU is suspended. */
  apply(): void {
    const { view } = this;
    let pid = 0;
    this.mms.length = 0;
    for (let task = this.firstTask; task !== 0; task = view.word(task + TaskStruct.offset.tasksNext)) {
      // Kernel threads count from another number, idle tasks have none.
      if (view.word(task + TaskStruct.offset.mm) !== 0 || view.u32(task + TaskStruct.offset.exitState) !== 0) {
        pid = Math.max(pid, view.u32(task + TaskStruct.offset.pid) | 0);
      }
      this.addMm(view.word(task + TaskStruct.offset.mm));
      this.addMm(view.word(task + TaskStruct.offset.activeMm));
    }
    for (let kvm = view.word(kvmGlobals + KvmGlobals.offset.vmList); kvm !== 0; kvm = view.word(kvm + Kvm.offset.vmListNext)) {
      this.addMm(view.word(kvm + Kvm.offset.mm));
      // Asked for before and after a fault of the guest is handled: none is being.
      this.put(kvm + Kvm.offset.mmuInvalidateSeq, 0);
    }
    for (const cpu of this.truth.cpus) if (view.isUp(cpu)) this.addMm(view.loadedMm(cpu));
    // Patching writes by an address space of its own.
    if (this.pokingMm !== 0) this.addMm(view.word(this.pokingMm));
    this.generations();
    this.domains();
    this.mmNumbers();
    if (pid > 0 && view.word(this.lastPid) > pid) this.putWord(this.lastPid, pid);
  }

  private addMm(pointer: number): void {
    const mm = pointer as Ptr<"mm_struct">; // from a field that holds one
    if (mm !== 0 && mm !== this.view.initMm && !this.mms.includes(mm)) this.mms.push(mm);
  }

  private put(address: number, value: number): void {
    this.machine.memory.write32(this.view.physical(address) as PhysAddr, value); // a kernel object's
  }

  private putWord(address: number, value: number): void {
    this.machine.memory.writeWord(this.view.physical(address) as PhysAddr, value); // a kernel object's
  }

  private ctxIdOf(mm: Ptr<"mm_struct">): number {
    return this.view.u32(mm + Mm.offset.context + MmContext.offset.ctxId);
  }

  /** The mm's generations, what the slots of each CPU have seen of them, and requests that were answered. */
  private generations(): void {
    const { view, mms } = this;
    for (const cpu of this.truth.cpus) {
      if (!view.isUp(cpu)) continue;
      for (let asid = 0; asid < TLB_NR_DYN_ASIDS; asid++) {
        const slot = cpu.perCpuBase + tlbContexts.offset + asid * TlbContext.bytes;
        const ctxId = view.u32(slot + TlbContext.offset.ctxId);
        if (ctxId === INIT_MM_CTX_ID) continue;
        const mm = ctxId === 0 ? undefined : mms.find((one) => this.ctxIdOf(one) === ctxId);
        const generation = view.u32(slot + TlbContext.offset.tlbGen);
        if (mm === undefined) {
          this.put(slot + TlbContext.offset.ctxId, 0);
          this.put(slot + TlbContext.offset.tlbGen, 0);
        } else {
          const isCurrent = view.u32(mm + Mm.offset.context + MmContext.offset.tlbGen) === generation;
          this.put(slot + TlbContext.offset.tlbGen, isCurrent ? UP_TO_DATE : UP_TO_DATE - 1);
        }
      }
      const request = cpu.perCpuBase + flushTlbInfo.offset;
      for (let at = 0; at < FlushTlbInfo.bytes; at += 4) this.put(request + at, 0);
      const spec = cpu.perCpuBase + lastUserMmSpec.offset;
      const last = view.word(spec);
      if (last >= SPEC_BITS && !mms.some((one) => this.ctxIdOf(one) === Math.floor(last / SPEC_BITS))) this.putWord(spec, last % SPEC_BITS);
    }
    let newest = INIT_MM_CTX_ID;
    for (const mm of mms) {
      this.put(mm + Mm.offset.context + MmContext.offset.tlbGen, UP_TO_DATE);
      newest = Math.max(newest, this.ctxIdOf(mm));
    }
    this.put(this.lastCtxId, newest - INIT_MM_CTX_ID);
  }

  private domains(): void {
    const { view } = this;
    const ids = new Set<number>();
    for (const mm of this.mms) for (const { id } of view.domainsOf(mm)) ids.add(id);
    for (const cpu of this.truth.cpus) {
      if (view.isUp(cpu) && !ids.has(view.lastVm(cpu))) this.put(cpu.perCpuBase + lastVm.offset, 0);
    }
    this.put(this.lastDomain, Math.max(0, ...ids));
  }

  /** Numbers of mm's name owners of data and training: one is free when none of it is left. */
  private mmNumbers(): void {
    const { view } = this;
    const last = view.u32(this.lastMmNumber);
    let newest = 0;
    for (const mm of this.mms) newest = Math.max(newest, view.u32(mm + Mm.offset.number));
    if (last <= newest) return;
    const seen = (label: Owner): void => {
      if (label !== OWNER_NONE) newest = Math.max(newest, ownerNumber(label));
    };
    for (const cpu of this.truth.cpus) for (const structure of STRUCTURES) for (const label of cpu.holds(structure)) seen(label);
    const { memory } = this.machine;
    for (let pfn = 0; pfn < memory.size / PAGE_SIZE && newest < last; pfn++) seen(memory.frameOwner(pfn));
    for (const cpu of this.machine.cpus) seen(cpu.userLabel);
    if (newest < last) this.put(this.lastMmNumber, newest);
  }
}
