// What a structure of the simulated machine really holds of somebody, for people: bytes of lines, entries of predictors.
import { hex, type Owner, physAddr } from "../../hardware/index.ts";
import type { SimulatedMachine } from "../../machine/index.ts";
import type { KernelNames } from "./kernel-names.ts";

const SHOWN_BYTES = 16;
const MODES = ["kernel mode", "user mode", "a guest's kernel mode", "a guest's user mode"];

/** A line of text for each line or entry of `structure` on `cpu` that is `label`'s. */
export function leaked(machine: SimulatedMachine, names: KernelNames, cpu: number, structure: string, label: Owner): readonly string[] {
  const { structures } = machine.gearedCore;
  if (structures === undefined) return [];
  const core = Math.floor(cpu / structures.model.threadsPerCore);
  const whose = names.owner(label);
  const line = ({ address }: { readonly address: number }): string => {
    const bytes = [...machine.memory.slice(physAddr(address), SHOWN_BYTES)].map((byte) => byte.toString(16).padStart(2, "0"));
    return `${structure}: line at physical ${hex(address)}, data of ${whose}: ${bytes.join(" ")}`;
  };
  const entry = ({ target, mode }: { readonly target: number; readonly mode: number }): string =>
    `${structure}: an entry that leads to ${hex(target)}, trained by ${whose} in ${MODES[mode] ?? `mode ${mode}`}`;
  switch (structure) {
    case "L1D":
      return [...structures.lines("l1d", core)].filter(({ owner }) => owner === label).map(line);
    case "fill buffers":
      return [...structures.fillBuffers(core)].filter(({ owner }) => owner === label).map(line);
    case "branch target buffer":
      return [...structures.targets(core)].filter(({ trainer }) => trainer === label).map(entry);
    case "return stack":
      return [...structures.returnStack(cpu)].filter(({ trainer }) => trainer === label).map(entry);
    default:
      return [];
  }
}
