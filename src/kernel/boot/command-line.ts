// The kernel command line: read once from boot parameters, kept in static data, asked by whoever owns a parameter.
import { addVirt, BOOT_COMMAND_LINE, BOOT_COMMAND_LINE_LENGTH, cpu, type PhysAddr } from "../../hardware/index.ts";
import { va } from "../mm/layout.ts";
import { staticBytes } from "../static-data.ts";
import { printk } from "../trace.ts";

/** Kernel: COMMAND_LINE_SIZE. */
export const COMMAND_LINE_SIZE = 2048;
const length = staticBytes("saved_command_line_length", 4, 4);
const line = staticBytes("saved_command_line", COMMAND_LINE_SIZE, 8);

/** Copies the command line from where firmware left it (kernel: `setup_arch()`). */
export function saveCommandLine(): void {
  const bytes = Math.min(cpu.load(va(BOOT_COMMAND_LINE_LENGTH as PhysAddr), 4), COMMAND_LINE_SIZE);
  cpu.store(length, 4, bytes);
  if (bytes > 0) cpu.copy(line, va(BOOT_COMMAND_LINE as PhysAddr), bytes);
}

/** The command line as text (kernel: boot_command_line). */
export function bootCommandLine(): string {
  const bytes = cpu.load(length, 4);
  let text = "";
  for (let i = 0; i < bytes; i++) text += String.fromCharCode(cpu.load(addVirt(line, i), 1));
  return text;
}

/** Value of the last `name=value` on the line, "" for a bare `name`, undefined where there is none. */
export function commandLineOption(text: string, name: string): string | undefined {
  let found: string | undefined;
  for (const word of text.split(/\s+/)) {
    if (word === name) found = "";
    else if (word.startsWith(`${name}=`)) found = word.slice(name.length + 1);
  }
  return found;
}

/**
 * Value of an option that takes one of `accepted`; anything else prints a warning that names them, and counts as absent.
 * @returns undefined: absent, or not accepted.
 */
export function commandLineChoice<T extends string>(text: string, name: string, accepted: readonly T[]): T | undefined {
  const value = commandLineOption(text, name);
  if (value === undefined) return undefined;
  const found = accepted.find((a) => a === value);
  if (found === undefined) printk(`Ignoring unknown ${name}=${value} argument: expected ${accepted.join(", ")}`);
  return found;
}
