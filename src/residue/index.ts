export { type BareOptions, bareMachine, onBareMachine, withBareCpu } from "./bare-fixture.ts";
export * from "./guest.ts";
export { bootKernel, type KernelFixtureOptions, runInKernel, runOn } from "./kernel-fixture.ts";
export type { StructureName } from "./labels.ts";
export { type Access, FETCH, READ, WRITE } from "./mmu.ts";
export { ResidueCpu, type StepHook } from "./residue-cpu.ts";
export { ResidueMachine, type ResidueOptions } from "./residue-machine.ts";
export type { Mark } from "./tracked-memory.ts";
export type { Translation } from "./translations.ts";
