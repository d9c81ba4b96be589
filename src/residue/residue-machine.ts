// The abstract machine: memory, CPUs, firmware and the turns of the CPUs. It is deterministic: a CPU keeps its turn until its path
// sleeps or its event ends, then the next one that can get on has its turn.
import {
  cpu as ambientCpu,
  assert,
  BOOT_COMMAND_LINE,
  BOOT_COMMAND_LINE_LENGTH,
  BOOT_CPUS,
  BOOT_INITRD,
  BOOT_INITRD_BYTES,
  BOOT_MEMORY_BYTES,
  BOOT_WAKEUP_MAILBOX,
  type CpuModel,
  cpuId,
  cr3,
  cr3Root,
  EARLY_PAGE_TABLE_SYMBOL,
  fail,
  type KernelImage,
  type Observer,
  OWNER_GUEST,
  OWNER_NONE,
  type Owner,
  PAGE_SIZE,
  type PhysAddr,
  type Puppet,
  pageDown,
  pcid,
  physAddr,
  type Stub,
  silentObserver,
  type VirtAddr,
} from "../hardware/index.ts";
import { IoBus } from "../platform/index.ts";
import type { GuestModel } from "./guest.ts";
import { ResidueCpu } from "./residue-cpu.ts";
import type { ResidueHost } from "./residue-host.ts";
import { SleepingPaths } from "./sleeping-paths.ts";
import { combine, StateHash, wordOfText } from "./state-hash.ts";
import { type Mark, TrackedMemory } from "./tracked-memory.ts";
import type { Undoable } from "./undo-log.ts";

export interface ResidueOptions {
  readonly model: CpuModel;
  readonly memoryBytes: number;
  readonly cpus: number;
  /** Logical CPUs of a core, 1 by default; with 2 the threads of a core have neighbouring numbers, the even one first. */
  readonly threadsPerCore?: 1 | 2;
  readonly image?: KernelImage;
  readonly commandLine?: string;
  readonly observer?: Observer;
  /** Output of the debug console and the serial port. */
  readonly console?: (byte: number, port: number) => void;
  /** The initial RAM disk, which firmware puts at the end of memory. */
  readonly initrd?: Uint8Array;
}

const MAX_COMMAND_LINE = 2048;
const WAKEUP_COMMAND = 1;
/** Numbers of ResidueCpu.saveCounts(). */
const COUNTS_PER_CPU = 4;
const PUPPETS = wordOfText("puppets");

export class ResidueMachine implements Undoable {
  readonly memory: TrackedMemory;
  readonly cpus: readonly ResidueCpu[];
  readonly threadsPerCore: 1 | 2;
  readonly observer: Observer;
  /** Chooses how guests leave. */
  guest: GuestModel = () => undefined;
  readonly sleeping: SleepingPaths;
  private readonly image: KernelImage | undefined;
  private readonly stubsByAddress = new Map<VirtAddr, Stub>();
  private readonly trapAddresses: readonly VirtAddr[];
  /** The trap of each stub that was asked for: the text does not change. */
  private readonly traps = new Map<VirtAddr, VirtAddr>();
  private readonly puppetTraps = new Map<PhysAddr, string>();
  /** First of two words for each CPU: who user and guest code run as. */
  private readonly contexts: number;
  /** A word: status that the kernel or a guest's monitor wrote to the exit port, plus one. */
  private readonly exit: number;
  /** Of each mark, what only counts. */
  private readonly counts: number[] = [];
  private isFrozen = false;

  constructor(options: ResidueOptions) {
    const { model, image } = options;
    this.image = image;
    this.threadsPerCore = options.threadsPerCore ?? 1;
    this.memory = new TrackedMemory(options.memoryBytes, options.cpus);
    this.sleeping = new SleepingPaths(this.memory);
    this.contexts = this.memory.reserveRegisters(2 * options.cpus);
    this.exit = this.memory.reserveRegisters(1);
    this.observer = this.groundTruth(options.observer ?? silentObserver);
    this.trapAddresses = [...(image?.traps.keys() ?? [])].sort((a, b) => a - b);
    for (const stub of image?.stubs.values() ?? []) {
      const address = image?.symbols.get(stub.symbol);
      if (address === undefined) fail(`the image has no symbol for its stub ${stub.symbol}`);
      this.stubsByAddress.set(address, stub);
    }
    const host = this.host(options);
    this.cpus = Array.from({ length: options.cpus }, (_, i) => new ResidueCpu(cpuId(i), model, this.memory, this.observer, host));
    if (this.threadsPerCore === 2) for (const cpu of this.cpus) this.pairWithSibling(cpu);
    if (image !== undefined) this.loadImage(image, options);
  }

  private pairWithSibling(cpu: ResidueCpu): void {
    const sibling = this.cpus[cpu.id ^ 1];
    if (sibling === undefined) return;
    cpu.labels.shareWith(sibling.labels, () => !cpu.hasOwnPredictions);
  }

  /** Turns until nobody can get on, `until` holds, or the limit is reached. @returns why it stopped */
  run(until: () => boolean = () => false, limit = Number.POSITIVE_INFINITY): "idle" | "done" | "limit" {
    for (let turns = 0; turns < limit; ) {
      let progressed = false;
      for (const cpu of this.cpus) {
        if (!cpu.canRun) continue;
        progressed = true;
        turns++;
        this.turn(cpu.id);
        if (until()) return "done";
      }
      if (!progressed && !this.advanceTime()) return "idle";
    }
    return "limit";
  }

  /** One turn of one CPU, and of the firmware if it asked for something. */
  turn(index: number): void {
    this.cpu(index).turn();
    this.answerMailbox();
  }

  /** Time stands still from now on: times in memory are constants, and timers fire when `cpu.fireTimer()` says so. */
  freezeTime(): void {
    this.isFrozen = true;
    const now = Math.max(...this.cpus.map((cpu) => cpu.now));
    for (const cpu of this.cpus) cpu.freezeTime(now);
  }

  /**
   * States are not told apart by which translations are cached, but for those that were taken away. Sound while `memory.hasChangedCached`
   * is false.
   */
  ignoreCachedTranslations(): void {
    this.memory.watchEntries();
    for (const cpu of this.cpus) cpu.mmu.tlb.isExact = false;
  }

  /** Starts hashing, and keeping what marks need, from the present state. */
  startTracking(): void {
    const { memory } = this;
    memory.startTracking();
    this.counts.length = 0;
    memory.stateHash.reset();
    this.addState(memory.stateHash);
  }

  /**
   * The present state, to go back to: between turns, or from a hook, before the step that it looks at. Marks are taken back in the
   * reverse order, each any number of times.
   */
  mark(): Mark {
    const mark = this.memory.mark();
    for (const cpu of this.cpus) cpu.saveCounts(this.counts);
    return mark;
  }

  /**
   * Goes back to `mark`. Only between turns (a hook ends its own by `cpu.abandon()`). If the mark was made before a step of a path, the
   * CPU's next turn runs that path up to the step without effects, and the hook sees it again.
   */
  rewind(mark: Mark): void {
    this.memory.rewindTo(mark);
    const words = COUNTS_PER_CPU * this.cpus.length;
    const first = this.memory.markNumber(mark) * words;
    for (const [i, cpu] of this.cpus.entries()) cpu.restoreCounts(this.counts, first + COUNTS_PER_CPU * i);
    this.counts.length = first + words;
  }

  /** Low half of the hash of the whole state; equal states have equal hashes, however they came about. `hashHigh` is the other. */
  get hashLow(): number {
    const { memory } = this;
    let low = memory.low ^ memory.stateHash.low;
    for (const cpu of this.cpus) low ^= cpu.pathLow;
    return low;
  }

  get hashHigh(): number {
    const { memory } = this;
    let high = memory.high ^ memory.stateHash.high;
    for (const cpu of this.cpus) high ^= cpu.pathHigh;
    return high;
  }

  /** The same hash, summed up anew: for tests of the one that follows the changes. */
  hashFromScratch(): StateHash {
    const hash = new StateHash();
    this.memory.addContents(hash);
    this.addState(hash);
    for (const cpu of this.cpus) hash.toggleDigests(cpu.pathLow, cpu.pathHigh);
    return hash;
  }

  /** Adds everything but memory and running paths to `hash`. */
  private addState(hash: StateHash): void {
    this.memory.addRegisters(hash);
    for (const cpu of this.cpus) {
      cpu.labels.addTo(hash);
      cpu.mmu.tlb.addTo(hash);
    }
    this.sleeping.addTo(hash);
    for (const [trap, name] of this.puppetTraps) hash.toggle(combine(PUPPETS, trap), wordOfText(name));
  }

  /** Status that the kernel or a guest's monitor wrote to the exit port. */
  get exitStatus(): number | undefined {
    const stored = this.memory.words[this.exit] ?? 0;
    return stored === 0 ? undefined : stored - 1;
  }

  /**
   * What took `[start, end)` of address space `space` away (0: of the kernel's half) has returned: told by whoever judges the use of stale
   * translations, who remembers it as well. @returns the time
   */
  revoke(space: number, start: number, end: number): number {
    if (this.memory.isTracking) for (const cpu of this.cpus) cpu.mmu.tlb.revoke(space, start, end);
    return ++this.memory.changes;
  }

  /** The CPU with that number. */
  cpu(index: number): ResidueCpu {
    return this.cpus[index] ?? fail(`no cpu ${index}`);
  }

  /** Address of a symbol of the image. */
  symbol(name: string): VirtAddr {
    return this.image?.symbols.get(name) ?? fail(`the image has no symbol ${name}`);
  }

  /** Nobody can get on: time passes to the next timer. False when there is none. */
  private advanceTime(): boolean {
    if (this.isFrozen) return false;
    let next = Number.POSITIVE_INFINITY;
    for (const cpu of this.cpus) if (cpu.state.activity !== "parked") next = Math.min(next, cpu.apic.nextArrival);
    if (!Number.isFinite(next)) return false;
    for (const cpu of this.cpus) cpu.now = Math.max(cpu.now, next);
    return true;
  }

  /** Tells who is who, then passes on. */
  private groundTruth(next: Observer): Observer {
    return {
      trace: (event, a, b, c) => next.trace(event, a, b, c),
      print: (text) => next.print(text),
      frameOwner: (pfn, label) => {
        this.memory.setFrameOwner(pfn, label);
        if (this.memory.isTracking) for (const cpu of this.cpus) cpu.mmu.tlb.reused(pfn);
        next.frameOwner(pfn, label);
      },
      context: (cpu, kind, label) => {
        this.memory.setRegister(this.contexts + 2 * cpu + (kind === OWNER_GUEST ? 1 : 0), label);
        next.context(cpu, kind, label);
      },
      ...(next.allocated === undefined ? {} : { allocated: next.allocated.bind(next) }),
      freed: (kind, address, bytes) => {
        this.forgotten(address, bytes);
        next.freed?.(kind, address, bytes);
      },
    };
  }

  /** Kernel memory was given back: nothing in it is a count any more. */
  private forgotten(address: VirtAddr, bytes: number): void {
    const { state, mmu } = this.cpu(ambientCpu.id);
    for (let done = 0; done < bytes; ) {
      const va = address + done;
      const length = Math.min(bytes - done, PAGE_SIZE - (va - pageDown(va as PhysAddr))); // only its place in the page counts
      const pa = mmu.peek(va, cr3Root(state.cr3));
      if (pa !== undefined) this.memory.rehash(pa, length);
      done += length;
    }
  }

  private host(options: ResidueOptions): ResidueHost {
    const machine = this;
    const ports = new IoBus({
      console: (byte, port) => options.console?.(byte, port),
      exit: (status) => {
        this.memory.setRegister(this.exit, status + 1);
      },
      suspendToRam: () => this.suspendToRam(),
    });
    return {
      cpuCount: options.cpus,
      threadsPerCore: this.threadsPerCore,
      ports,
      get guest(): GuestModel {
        return machine.guest;
      },
      stub: (symbol) => this.image?.stubs.get(symbol),
      stubAt: (address) => this.stubsByAddress.get(address),
      symbol: (name) => this.image?.symbols.get(name),
      trapOf: (address) => this.trapOf(address),
      registerPuppet: (name, trap) => this.registerPuppet(name, trap),
      puppetAt: (trap) => this.puppetAt(trap),
      sendInterrupt: (destination, vector, isNmi) => {
        const target = this.cpu(destination);
        if (isNmi) target.raiseNmi();
        else target.raise(vector);
      },
      sleeping: this.sleeping,
      contextLabel: (cpu, isGuest) => (this.memory.words[this.contexts + 2 * cpu + (isGuest ? 1 : 0)] ?? OWNER_NONE) as Owner, // as context() was told
    };
  }

  private trapOf(address: VirtAddr): VirtAddr {
    let trap = this.traps.get(address);
    if (trap === undefined) {
      trap = this.trapAddresses.find((at) => at >= address) ?? address;
      this.traps.set(address, trap);
    }
    return trap;
  }

  private registerPuppet(name: string, trap: PhysAddr): void {
    const { memory, puppetTraps } = this;
    const old = puppetTraps.get(trap);
    if (old === name) return;
    puppetTraps.set(trap, name);
    if (!memory.isTracking) return;
    memory.log.object(this, trap, old);
    const place = combine(PUPPETS, trap);
    if (old !== undefined) memory.stateHash.toggle(place, wordOfText(old));
    memory.stateHash.toggle(place, wordOfText(name));
  }

  undo(key: number, old: unknown): void {
    const trap = key as PhysAddr; // as registerPuppet() told it
    if (typeof old === "string") this.puppetTraps.set(trap, old);
    else this.puppetTraps.delete(trap);
  }

  private puppetAt(trap: PhysAddr): Puppet | undefined {
    const name = this.puppetTraps.get(trap);
    return name === undefined ? undefined : this.image?.puppets.get(name);
  }

  /** Firmware: the image, the boot parameters, the boot CPU at the entry. */
  private loadImage(image: KernelImage, options: ResidueOptions): void {
    const { memory } = this;
    assert(
      memory.has(image.physicalBase, image.bytes.byteLength),
      () => `the kernel needs ${image.physicalBase + image.bytes.byteLength} bytes of memory`,
    );
    memory.writeBytes(image.physicalBase, image.bytes);
    memory.writeWord(physAddr(BOOT_MEMORY_BYTES), options.memoryBytes);
    memory.write32(physAddr(BOOT_CPUS), options.cpus);
    const line = new TextEncoder().encode(options.commandLine ?? "").slice(0, MAX_COMMAND_LINE);
    memory.write32(physAddr(BOOT_COMMAND_LINE_LENGTH), line.byteLength);
    memory.writeBytes(physAddr(BOOT_COMMAND_LINE), line);
    const { initrd } = options;
    if (initrd !== undefined) {
      const at = pageDown(physAddr(options.memoryBytes - initrd.length));
      memory.writeBytes(at, initrd);
      memory.writeWord(physAddr(BOOT_INITRD), at);
      memory.writeWord(physAddr(BOOT_INITRD_BYTES), initrd.length);
    }
    const entry = image.symbols.get(image.entrySymbol) ?? fail(`the image has no entry ${image.entrySymbol}`);
    this.startCpu(0, entry);
  }

  /** Sleep state S3 of the running CPU, and awake again: it forgets all but memory. The stub's effect goes on as the waking code would. */
  private suspendToRam(): void {
    const running = this.cpu(ambientCpu.id);
    for (const other of this.cpus) assert(other === running || other.state.activity === "parked", () => `S3 while cpu ${other.id} runs`);
    const { activity } = running.state;
    running.reset();
    running.labels.reset();
    this.putBootState(running);
    running.state.activity = activity;
  }

  private startCpu(index: number, entry: VirtAddr): void {
    const cpu = this.cpu(index);
    this.putBootState(cpu);
    cpu.start(entry, index);
  }

  /** The control registers with which firmware hands a CPU over. */
  private putBootState(cpu: ResidueCpu): void {
    const { image } = this;
    if (image === undefined) fail("no image to start");
    const tables = image.symbols.get(EARLY_PAGE_TABLE_SYMBOL) ?? fail(`the image has no ${EARLY_PAGE_TABLE_SYMBOL}`);
    cpu.state.cr3 = cr3(physAddr(tables - image.base + image.physicalBase), pcid(0));
    cpu.state.cr4 |= BOOT_CR4;
    cpu.state.cr0 = BOOT_CR0;
  }

  /** The wakeup mailbox of the firmware's parked CPUs. */
  private answerMailbox(): void {
    const { memory } = this;
    if (memory.read16(physAddr(BOOT_WAKEUP_MAILBOX)) !== WAKEUP_COMMAND) return;
    const target = memory.read32(physAddr(BOOT_WAKEUP_MAILBOX + 4));
    const entry = memory.readWord(physAddr(BOOT_WAKEUP_MAILBOX + 8)) as VirtAddr;
    const cpu = this.cpus[target];
    if (cpu === undefined || cpu.state.activity !== "parked") fail(`the wakeup mailbox names cpu ${target}, which is not parked`);
    cpu.now = Math.max(...this.cpus.map((other) => other.now));
    this.startCpu(target, entry);
    memory.write16(physAddr(BOOT_WAKEUP_MAILBOX), 0);
  }
}

/** CR4.{PAE,PGE}, CR0.{PE,MP,ET,NE,WP,PG}. */
const BOOT_CR4 = (1 << 5) | (1 << 7);
const BOOT_CR0 = 0x80010033;
