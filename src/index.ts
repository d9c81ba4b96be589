// The library: what the command is made of, for programs that run their own experiments. A run begins with `runGuest` or `runAttack`, or
// with `Simulation`, which gives a booted kernel on a machine; CPU models, the kernel's image and the assembler are there to build on.
export { assemble, assembler } from "./assembler/index.ts";
export * from "./hardware/index.ts";
export { buildKernelImage, type KernelConfig, type Preset, type ProcessConfig, TRACE_EVENTS } from "./kernel/index.ts";
export * from "./lab/index.ts";
export { type MachineOptions, type RunResult, SimulatedMachine } from "./machine/index.ts";
export { ResidueMachine } from "./residue/index.ts";
export { encodeVictimArguments, encodeVmmArguments, VICTIM_PUPPET, VMM_PUPPET, victim, vmmPuppet } from "./vmm/index.ts";
