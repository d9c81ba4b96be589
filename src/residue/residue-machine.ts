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
  EARLY_PAGE_TABLE_SYMBOL,
  fail,
  type KernelImage,
  memoryEvents,
  type Observer,
  OWNER_GUEST,
  OWNER_NONE,
  type Owner,
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
import { Labels } from "./labels.ts";
import { type CpuSnapshot, ResidueCpu } from "./residue-cpu.ts";
import type { ResidueHost } from "./residue-host.ts";
import { ResiduePath } from "./residue-path.ts";
import { type MemoryMark, TrackedMemory } from "./tracked-memory.ts";

export interface ResidueOptions {
  readonly model: CpuModel;
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly image?: KernelImage;
  readonly commandLine?: string;
  readonly observer?: Observer;
  /** Output of the debug console and the serial port. */
  readonly console?: (byte: number, port: number) => void;
  /** The initial RAM disk, which firmware puts at the end of memory. */
  readonly initrd?: Uint8Array;
}

export interface MachineSnapshot {
  readonly mark: MemoryMark;
  readonly cpus: readonly CpuSnapshot[];
  readonly sleeping: readonly (readonly [VirtAddr, ResiduePath])[];
  readonly puppetTraps: readonly (readonly [PhysAddr, string])[];
  readonly userLabels: readonly Owner[];
  readonly guestLabels: readonly Owner[];
  readonly exitStatus: number | undefined;
}

function copyOf(path: ResiduePath): ResiduePath {
  const copy = new ResiduePath();
  copy.copyFrom(path);
  return copy;
}

const MAX_COMMAND_LINE = 2048;
const WAKEUP_COMMAND = 1;

export class ResidueMachine {
  readonly memory: TrackedMemory;
  readonly cpus: readonly ResidueCpu[];
  readonly observer: Observer;
  /** Chooses how guests leave. */
  guest: GuestModel = () => undefined;
  /** Status that the kernel or a guest's monitor wrote to the exit port. */
  exitStatus: number | undefined;
  readonly sleeping = new Map<VirtAddr, ResiduePath>();
  private readonly image: KernelImage | undefined;
  private readonly stubsByAddress = new Map<VirtAddr, Stub>();
  private readonly trapAddresses: readonly VirtAddr[];
  private readonly puppetTraps = new Map<PhysAddr, string>();
  // Per CPU: who user and guest code run as.
  private readonly userLabels: Owner[];
  private readonly guestLabels: Owner[];

  constructor(options: ResidueOptions) {
    const { model, image } = options;
    this.image = image;
    this.memory = new TrackedMemory(options.memoryBytes);
    this.userLabels = new Array<Owner>(options.cpus).fill(OWNER_NONE);
    this.guestLabels = new Array<Owner>(options.cpus).fill(OWNER_NONE);
    this.observer = this.groundTruth(options.observer ?? silentObserver);
    this.trapAddresses = [...(image?.traps.keys() ?? [])].sort((a, b) => a - b);
    for (const stub of image?.stubs.values() ?? []) {
      const address = image?.symbols.get(stub.symbol);
      if (address === undefined) fail(`the image has no symbol for its stub ${stub.symbol}`);
      this.stubsByAddress.set(address, stub);
    }
    const host = this.host(options);
    this.cpus = Array.from({ length: options.cpus }, (_, i) => new ResidueCpu(cpuId(i), model, this.memory, this.observer, host));
    if (image !== undefined) this.loadImage(image, options);
  }

  /** Turns until nobody can get on, `until` holds, or the limit is reached. @returns why it stopped */
  run(until: () => boolean = () => false, limit = Number.POSITIVE_INFINITY): "idle" | "done" | "limit" {
    for (let turns = 0; turns < limit; ) {
      let progressed = false;
      for (const cpu of this.cpus) {
        if (!cpu.canRun) continue;
        progressed = true;
        turns++;
        cpu.turn();
        this.answerMailbox();
        if (until()) return "done";
      }
      if (!progressed && !this.advanceTime()) return "idle";
    }
    return "limit";
  }

  /** The state of the machine at the edge of a turn. Memory must be tracked; snapshots are taken back in the reverse order. */
  save(): MachineSnapshot {
    return {
      mark: this.memory.mark(),
      cpus: this.cpus.map((cpu) => cpu.save()),
      sleeping: [...this.sleeping].map(([task, path]): [VirtAddr, ResiduePath] => [task, copyOf(path)]),
      puppetTraps: [...this.puppetTraps],
      userLabels: [...this.userLabels],
      guestLabels: [...this.guestLabels],
      exitStatus: this.exitStatus,
    };
  }

  /** Goes back to `snapshot`, which stays good for going back again. */
  restore(snapshot: MachineSnapshot): void {
    this.memory.rewindTo(snapshot.mark);
    for (const [i, cpu] of this.cpus.entries()) cpu.restore(snapshot.cpus[i] ?? fail(`the snapshot has no cpu ${i}`));
    this.sleeping.clear();
    for (const [task, path] of snapshot.sleeping) this.sleeping.set(task, copyOf(path));
    this.puppetTraps.clear();
    for (const [trap, name] of snapshot.puppetTraps) this.puppetTraps.set(trap, name);
    for (const [i, label] of snapshot.userLabels.entries()) this.userLabels[i] = label;
    for (const [i, label] of snapshot.guestLabels.entries()) this.guestLabels[i] = label;
    this.exitStatus = snapshot.exitStatus;
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
        next.frameOwner(pfn, label);
      },
      context: (cpu, kind, label) => {
        (kind === OWNER_GUEST ? this.guestLabels : this.userLabels)[cpu] = label;
        next.context(cpu, kind, label);
      },
      ...memoryEvents(next),
    };
  }

  private host(options: ResidueOptions): ResidueHost {
    const machine = this;
    const ports = new IoBus({
      console: (byte, port) => options.console?.(byte, port),
      exit: (status) => {
        this.exitStatus = status;
      },
      suspendToRam: () => this.suspendToRam(),
    });
    return {
      cpuCount: options.cpus,
      ports,
      get guest(): GuestModel {
        return machine.guest;
      },
      stub: (symbol) => this.image?.stubs.get(symbol),
      stubAt: (address) => this.stubsByAddress.get(address),
      symbol: (name) => this.image?.symbols.get(name),
      trapOf: (address) => this.trapAddresses.find((trap) => trap >= address) ?? address,
      registerPuppet: (name, trap) => {
        this.puppetTraps.set(trap, name);
      },
      puppetAt: (trap) => this.puppetAt(trap),
      sendInterrupt: (destination, vector, isNmi) => {
        const target = this.cpu(destination);
        if (isNmi) target.raiseNmi();
        else target.raise(vector);
      },
      sleeping: this.sleeping,
      contextLabel: (cpu, isGuest) => (isGuest ? this.guestLabels : this.userLabels)[cpu] ?? OWNER_NONE,
    };
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
    running.labels.copyFrom(new Labels(running.model));
    this.putBootState(running);
    running.state.activity = activity;
  }

  private startCpu(index: number, entry: VirtAddr): void {
    const cpu = this.cpu(index);
    this.putBootState(cpu);
    cpu.state.setRegister(7, index);
    cpu.start(entry);
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
